"""spec.method: which weights are trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document
from finetune_api.fields import Word


class MethodType(StrEnum):
    FULL = "full"
    LORA = "lora"


class Lora(Document):
    """Low-rank adapters, as in peft."""

    r: int = Field(16, ge=1, le=1024, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, le=8192, description="Scale of the adapters.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: Annotated[list[Word], Field(min_length=1, max_length=64)] = Field(
        ["all-linear"], description="Names of the modules that get an adapter."
    )


class Method(Document):
    """Which weights are trained."""

    type: MethodType = Field(MethodType.FULL, description="Train all weights, or low-rank adapters and the head.")
    lora: Lora = Field(Lora(), description="Used when type is lora.")
