"""spec.method: which weights are trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from finetune_api.base import Document, Rule, present
from finetune_api.fields import INT_OR_STRING, Word, as_text

LAYERS_PATTERN = r"^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$"
LayerNumbers = Annotated[
    str,
    BeforeValidator(as_text),
    StringConstraints(pattern=LAYERS_PATTERN, max_length=256),
    WithJsonSchema({**INT_OR_STRING, "pattern": LAYERS_PATTERN, "maxLength": 256}),
]
"""`0-8`, `0,1,5`, or both: `0-3,11`."""
Modules = Annotated[list[Word], Field(min_length=1, max_length=64)]


class MethodType(StrEnum):
    FULL = "full"
    FREEZE = "freeze"
    LORA = "lora"
    DORA = "dora"
    QLORA = "qlora"
    IA3 = "ia3"
    PROMPT = "prompt"
    PREFIX = "prefix"


LOW_RANK = frozenset({MethodType.LORA, MethodType.DORA, MethodType.QLORA})
VIRTUAL_TOKENS = frozenset({MethodType.PROMPT, MethodType.PREFIX})
"""Methods that put tokens of their own before a row's."""


class CacheFeatures(StrEnum):
    AUTO = "Auto"
    NEVER = "Never"


class Freeze(Document):
    """Weights that stay as they are. What is frozen computes as in evaluation: without dropout, batch norms fixed."""

    backbone: bool = Field(False, description="All but the head that answers.")
    layers: LayerNumbers | None = Field(
        None,
        description="Layers by number from 0, such as 0-8 or 0,1,5; with layer 0 also what lies below, the embeddings.",
    )
    cache_features: CacheFeatures = Field(
        CacheFeatures.AUTO, description="With backbone: compute each row's features once, where that gives the same."
    )
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"({present('backbone')} && self.backbone) != {present('layers')}",
            lambda freeze: freeze.backbone != (freeze.layers is not None),
            "set exactly one of backbone: true and layers",
        ),
    )


class Lora(Document):
    """Low-rank adapters, as in peft."""

    r: int = Field(16, ge=1, le=1024, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, le=8192, description="Scale of the adapters.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: Modules = Field(["all-linear"], description="Names of the modules that get an adapter.")


class Ia3(Document):
    """(IA)³: a factor for each value that some layers give or take."""

    target_modules: Modules | None = Field(
        None, description="Names of the layers with factors; keys, values and ends of feed-forward parts if absent."
    )
    feedforward_modules: Modules | None = Field(
        None, description="Those of the targets whose inputs, not outputs, have factors; ends of feed-forward parts."
    )


class Prompt(Document):
    """Prompt tuning: embeddings before those of the text."""

    virtual_tokens: int = Field(20, ge=1, le=4096, description="Embeddings that are learned.")
    init_text: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        None, description="Text whose tokens they begin as, repeated or cut; words at random if absent."
    )


class Prefix(Document):
    """Prefix tuning: keys and values before those of the text, in every layer."""

    virtual_tokens: int = Field(20, ge=1, le=4096, description="Keys and values that are learned in every layer.")


class Method(Document):
    """Which weights are trained."""

    type: MethodType = Field(
        MethodType.FULL, description="Train all weights, those that are not frozen, or adapters and the head."
    )
    freeze: Freeze = Field(Freeze(backbone=True), description="Used when type is freeze.")
    lora: Lora = Field(Lora(), description="Used when type is lora, dora or qlora.")
    ia3: Ia3 = Field(Ia3(), description="Used when type is ia3.")
    prompt: Prompt = Field(Prompt(), description="Used when type is prompt.")
    prefix: Prefix = Field(Prefix(), description="Used when type is prefix.")

    shots: int | None = Field(
        None, ge=1, le=1_000_000, description="Train on so many rows of each class, chosen by the seed."
    )

    @property
    def virtual_tokens(self) -> int:
        """How many positions of the model the method itself takes."""
        if self.type is MethodType.PROMPT:
            return self.prompt.virtual_tokens
        return self.prefix.virtual_tokens if self.type is MethodType.PREFIX else 0
