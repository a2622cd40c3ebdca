"""lora: low-rank adapters in the linear layers of the pre-trained part, and the whole of the new head."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, cast

from finetune_api.job import Method
from finetune_trainer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"


class LowRank:
    def __init__(self, method: Method) -> None:
        self.lora = method.lora

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        head = _head(model, new)
        config = LoraConfig(
            r=self.lora.r,
            lora_alpha=self.lora.alpha,
            lora_dropout=self.lora.dropout,
            target_modules=self._targets(model, head),
        )
        trained = [parameter for name, parameter in model.named_parameters() if name in head]
        wrapped: nn.Module = get_peft_model(model, config)
        for parameter in trained:
            parameter.requires_grad_(True)
        return wrapped

    def _targets(self, model: PreTrainedModel, head: Collection[str]) -> list[str]:
        """Full names of the linear layers outside the head that the manifest names by their last part."""
        from torch import nn

        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" not in head
        ]
        if self.lora.target_modules == [ALL_LINEAR]:
            return linear
        for wanted in self.lora.target_modules:
            if not any(_ends_with(name, wanted) for name in linear):
                endings = {name.rpartition(".")[2] for name in linear}
                message = f"spec.method.lora.targetModules: the model has no linear layer {wanted!r}"
                hint = nearest(wanted, {ALL_LINEAR, *endings}, "layers there are")
                raise ConfigError("ModuleNotFound", message, hint)
        return [name for name in linear if any(_ends_with(name, wanted) for wanted in self.lora.target_modules)]

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:
        """Merged: one plain model. Otherwise the base with its trained head, and the adapter beside it, which
        transformers puts on by itself: so the folder needs no other place to be loaded.
        """
        model = cast("PeftModel", module)
        if merge_adapter:
            model.merge_and_unload().save_pretrained(str(folder))
            return
        for config in model.peft_config.values():
            config.base_model_name_or_path = "."
        model.save_pretrained(str(folder), save_embedding_layers=False)
        model.unload().save_pretrained(str(folder))


def _head(model: PreTrainedModel, new: Collection[str]) -> set[str]:
    """Parameters outside the pre-trained part, and those in it that the weights' file did not have."""
    inside = f"{model.base_model_prefix}."
    outside = {name for name, _ in model.named_parameters() if not name.startswith(inside)}
    return outside | set(new)


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
