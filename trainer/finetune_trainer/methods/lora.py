"""lora: low-rank adapters in the linear layers of the pre-trained part, and the whole of the head that labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from finetune_trainer.methods.adapters import Adapters, named_layers

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class LowRank(Adapters):
    """What an adapter adds to a layer's weights is a product of two thin matrices, zero at first."""

    with_magnitudes: ClassVar[bool] = False
    """Learn the length of each row of the weights apart from its direction, as DoRA does."""

    def configure(self, model: PreTrainedModel, layers: Sequence[str]) -> PeftConfig:  # noqa: ARG002
        from peft import LoraConfig

        lora = self.method.lora
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=named_layers(layers, lora.target_modules, "spec.method.lora.targetModules"),
            use_dora=self.with_magnitudes,
        )
