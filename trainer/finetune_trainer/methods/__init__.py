"""Which weights are trained and how the result is saved, one file a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune_api.method import Method, MethodType
from finetune_trainer.methods.dora import WeightDecomposed
from finetune_trainer.methods.freeze import Frozen
from finetune_trainer.methods.full import Full
from finetune_trainer.methods.ia3 import Factors
from finetune_trainer.methods.lora import LowRank
from finetune_trainer.methods.prefix import PrefixTuning
from finetune_trainer.methods.prompt import PromptTuning
from finetune_trainer.methods.qlora import Quantized

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class TrainingMethod(Protocol):
    """Turns a pre-trained model into one to train, and that into files that transformers or peft loads."""

    def __init__(self, method: Method) -> None: ...

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:
        """The module to train; requires_grad says which weights are. Parameters in `new` always are."""

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:
        """Write the trained model to `folder`; the module is of no use afterwards."""


METHODS: Mapping[MethodType, type[TrainingMethod]] = {
    MethodType.FULL: Full,
    MethodType.FREEZE: Frozen,
    MethodType.LORA: LowRank,
    MethodType.DORA: WeightDecomposed,
    MethodType.QLORA: Quantized,
    MethodType.IA3: Factors,
    MethodType.PROMPT: PromptTuning,
    MethodType.PREFIX: PrefixTuning,
}
