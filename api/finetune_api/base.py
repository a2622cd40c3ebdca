"""What every document of ours has in common: strict, frozen, camelCase outside, null means absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Rule:
    """One rule across fields, said twice: in CEL for the API server, in Python for `finetune check`.

    `holds` gets the validated model. A test sends the same manifests through both.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str


def present(field: str) -> str:
    """CEL for "the field is set": an explicit null counts as absent."""
    return f"(has(self.{field}) && dyn(self.{field}) != null)"


class Document(BaseModel):
    """A strict, frozen part of a manifest or of a message between our programs."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
    )
    constraints: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: item for name, item in value.items() if item is not None}

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.constraints:
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core, handler)
        if cls.constraints:
            target = handler.resolve_ref_schema(schema)
            target["x-kubernetes-validations"] = [
                {"rule": rule.cel, "message": rule.message} for rule in cls.constraints
            ]
        return schema

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON values, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
