"""Which weights are trained and how the result is saved, one file a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune_api.method import Method, MethodType
from finetune_trainer.methods.full import Full
from finetune_trainer.methods.lora import LowRank

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class TrainingMethod(Protocol):
    """Turns a pre-trained model into one to train, and that into files that transformers' pipeline loads."""

    def __init__(self, method: Method) -> None: ...

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:
        """The module to train; requires_grad says which weights are. Parameters in `new` always are."""

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:
        """Write the trained model to `folder`; the module is of no use afterwards."""


METHODS: Mapping[MethodType, type[TrainingMethod]] = {MethodType.FULL: Full, MethodType.LORA: LowRank}
