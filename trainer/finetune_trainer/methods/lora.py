"""lora: low-rank adapters in the linear layers of the pre-trained part, and the whole of the head that labels."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finetune_api.method import Method
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
        from transformers.pytorch_utils import Conv1D

        output = _output_embeddings(model)
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and f"{name}.weight" not in head and module is not output
        ]
        if not linear:
            message = "spec.method.type: the model has no linear layer that could get an adapter"
            raise ConfigError("ModuleNotFound", message, "use full, which trains all of it")
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
        transformers puts on by itself: so the folder needs no other place to be loaded. Where it cannot, as with
        Wav2Vec2, which has adapters of its own kind, the adapter is merged all the same.
        """
        model = cast("PeftModel", module)
        if merge_adapter or not _puts_adapters_on(model):
            model.merge_and_unload().save_pretrained(str(folder))
            return
        for config in model.peft_config.values():
            config.base_model_name_or_path = "."
        model.save_pretrained(str(folder), save_embedding_layers=False)
        model.unload().save_pretrained(str(folder))


def _head(model: PreTrainedModel, new: Collection[str]) -> set[str]:
    """Parameters that the weights' file did not have, and of a head that labels also those that it had.

    A head that says tokens was learned with the whole model and stays as it is.
    """
    inside = f"{model.base_model_prefix}."
    names = {name for name, _ in model.named_parameters()}
    outside = {name for name in names if not name.startswith(inside)}
    return set(new) if _output_embeddings(model) is not None or outside == names else outside | set(new)


def _output_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """What says tokens, if the model does."""
    found: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return found


def _puts_adapters_on(model: PeftModel) -> bool:
    """Whether transformers puts an adapter on a model of this class while loading it."""
    from transformers.integrations.peft import PeftAdapterMixin

    found: Any = type(model.get_base_model())
    return found.load_adapter is PeftAdapterMixin.load_adapter


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
