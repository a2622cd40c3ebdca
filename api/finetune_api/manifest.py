"""Reading manifests: the same YAML that kubectl understands, and every mistake told at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from finetune_api.fields import (
    NAME_PATTERN,
    QUANTITY_PATTERN,
    SOURCE_SCHEMES,
    SUBDOMAIN_PATTERN,
    URI_PATTERN,
    VOLUME_PATTERN,
)
from finetune_api.job import FineTuneJob
from finetune_api.tracking import SERVER_PATTERN


@dataclass(frozen=True)
class Problem:
    """One mistake: the field's path as kubectl writes it, what is wrong, and what would work."""

    field: str
    reason: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" + (f" ({self.hint})" if self.hint else "")


class InvalidManifest(Exception):
    """A manifest that cannot be used; `problems` has every mistake."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class _KubectlLoader(yaml.SafeLoader):
    """YAML as kubectl's parser resolves it: 1e-4 is a number, dates are text, a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self._refuse_duplicates(node)
        self.flatten_mapping(node)
        pairs = node.value
        return {self._key(key): self.construct_object(value, deep=deep) for key, value in pairs}

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = "<<" if key_node.tag == "tag:yaml.org,2002:merge" else self._key(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)

    def _key(self, node: yaml.Node) -> str:
        key = self.construct_object(node, deep=True)
        return str(key).lower() if isinstance(key, bool) else str(key)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    legacy_octal = re.fullmatch(r"([-+]?)0([0-7]+)", text)
    return int(f"{legacy_octal[1]}0o{legacy_octal[2]}" if legacy_octal else text, 0)


_BOOLS = "y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_SPECIAL = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_RESOLVERS = (
    ("bool", rf"^(?:{_BOOLS})$", list("yYnNtTfFoO")),
    ("int", r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$", list("-+0123456789")),
    ("float", rf"^(?:{_NUMBER}|{_SPECIAL})$", list("-+0123456789.")),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", ["<"]),
)
_KubectlLoader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _RESOLVERS:
    _KubectlLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)
_KubectlLoader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}
_KubectlLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(text: str) -> Any:
    """The value of a YAML document as plain JSON, keys as text.

    Raises InvalidManifest with line and column where the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_KubectlLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "file"
        raise InvalidManifest([Problem(place, getattr(error, "problem", None) or str(error))]) from error


def parse_job(value: Any) -> FineTuneJob:
    """The FineTuneJob in a plain value. Raises InvalidManifest with every mistake."""
    if not isinstance(value, dict):
        raise InvalidManifest([Problem("file", "holds no object", "start with apiVersion, kind, metadata and spec")])
    try:
        return FineTuneJob.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise InvalidManifest(problems_of(error, FineTuneJob)) from error


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """What pydantic found, in the words of a manifest's author, one problem a field."""
    problems: dict[str, Problem] = {}
    for item in error.errors():
        location = [part for part in item["loc"] if not _is_union_branch(part)]
        problem = Problem(_path(location), _reason(item), _hint(item, location, model))
        former = problems.get(problem.field)
        problems[problem.field] = _either(former, problem) if former else problem
    return list(problems.values())


def _either(first: Problem, second: Problem) -> Problem:
    """One problem for a field that may have two types and has neither."""
    alternatives = second.reason.rpartition(" is not one of ")[2]
    return Problem(first.field, f"{first.reason}, and not {alternatives}", first.hint)


def _is_union_branch(part: Any) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"int", "constrained-int"})


def _path(location: Sequence[Any]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "manifest"


_REASONS = {
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "greater_than": "{value} is not more than {gt}",
    "greater_than_equal": "{value} is less than {ge}",
    "less_than": "{value} is not less than {lt}",
    "less_than_equal": "{value} is more than {le}",
    "string_too_long": "{value} has more than {max_length} characters",
    "string_too_short": "{value} has fewer than {min_length} characters",
    "too_long": "{value} has more than {max_length} entries",
    "too_short": "{value} has fewer than {min_length} entries",
    "string_pattern_mismatch": "{value} has a form that does not fit",
    "int_parsing": "{value} is no whole number",
    "int_type": "{value} is no whole number",
    "int_from_float": "{value} is no whole number",
    "float_parsing": "{value} is no number",
    "float_type": "{value} is no number",
    "bool_parsing": "{value} is neither true nor false",
    "bool_type": "{value} is neither true nor false",
    "string_type": "{value} is no text",
    "list_type": "{value} is no list",
    "model_type": "{value} is no object",
    "dict_type": "{value} is no object",
    "enum": "{value} is not one of {expected}",
    "literal_error": "{value} is not one of {expected}",
}
"""Words for pydantic's error types; a type that is not here keeps pydantic's own message."""


def _reason(item: Mapping[str, Any]) -> str:
    if item["type"] == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    words = _REASONS.get(item["type"], "{value}: {message}")
    return words.format(value=_shown(item.get("input")), message=item["msg"], **_context(item))


def _context(item: Mapping[str, Any]) -> dict[str, Any]:
    context = {name: value for name, value in item.get("ctx", {}).items() if name != "error"}
    return {**context, "expected": str(context.get("expected", "")).replace(" or ", ", ")}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _hint(item: Mapping[str, Any], location: Sequence[Any], model: type[BaseModel]) -> str | None:
    if item["type"] == "extra_forbidden":
        return _nearest(str(location[-1]), _fields_at(location[:-1], model))
    if item["type"] in {"enum", "literal_error"}:
        allowed = re.findall(r"'([^']*)'", str(item["ctx"]["expected"]))
        return _nearest(str(item.get("input")), allowed, listed=False)
    return _PATTERN_HINTS.get(item.get("ctx", {}).get("pattern", ""))


_PATTERN_HINTS = {
    URI_PATTERN: f"use {SOURCE_SCHEMES}",
    VOLUME_PATTERN: "use pvc://claim/path",
    QUANTITY_PATTERN: "use a quantity such as 4, 500m or 16Gi",
    NAME_PATTERN: "use lower-case letters, digits and -, a letter first",
    SUBDOMAIN_PATTERN: "use lower-case letters, digits, - and .",
    SERVER_PATTERN: "use http://host:port or https://host, without a user or a password",
}


def _nearest(name: str, names: Sequence[str], listed: bool = True) -> str | None:
    lowered = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if matches:
        return f"did you mean {lowered[matches[0]]}?"
    return f"fields here: {', '.join(sorted(names))}" if listed and names else None


def _fields_at(location: Sequence[Any], model: type[BaseModel]) -> list[str]:
    """Names of the fields that the object at `location` may have."""
    for part in location:
        if isinstance(part, int):
            continue
        found = next((info for name, info in model.model_fields.items() if part in (name, info.alias)), None)
        inner = _model_in(found.annotation) if found else None
        if inner is None:
            return []
        model = inner
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
