"""Adapters that peft puts into the layers of a model: what lora, dora, qlora and ia3 share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from finetune_api.method import Method
from finetune_trainer.errors import ConfigError, nearest
from finetune_trainer.methods.head import head_of, output_embeddings

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"


class Adapters(ABC):
    """The pre-trained part is frozen but for its adapters; the head that labels is trained whole."""

    put_on: ClassVar[bool] = True
    """Whether transformers puts such an adapter on while it loads a model that has one beside it."""

    def __init__(self, method: Method) -> None:
        self.method = method

    @abstractmethod
    def configure(self, model: PreTrainedModel, layers: Sequence[str]) -> PeftConfig:
        """What peft is told; `layers` are the full names of the linear layers outside the head."""

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:
        from peft import get_peft_model

        head = head_of(model, new)
        trained = [parameter for name, parameter in model.named_parameters() if name in head]
        wrapped: nn.Module = get_peft_model(model, self.configure(model, linear_layers(model, head)))
        for parameter in trained:
            parameter.requires_grad_(True)
        return wrapped

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:
        """Merged: one plain model. Otherwise the base with its trained head, and the adapter beside it, which
        transformers puts on by itself: so the folder needs no other place to be loaded. Where it cannot, as with
        Wav2Vec2, which has adapters of its own kind, the adapter is merged all the same.
        """
        model = cast("PeftModel", module)
        if merge_adapter or not self.put_on or not _puts_adapters_on(model):
            model.merge_and_unload().save_pretrained(str(folder))
            return
        for config in model.peft_config.values():
            config.base_model_name_or_path = "."
        model.save_pretrained(str(folder), save_embedding_layers=False)
        model.unload().save_pretrained(str(folder))


def linear_layers(model: PreTrainedModel, head: Collection[str]) -> list[str]:
    """Full names of the linear layers outside the head. Raises ConfigError if there is none."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = output_embeddings(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and f"{name}.weight" not in head and module is not output
    ]
    if not linear:
        message = "spec.method.type: the model has no linear layer that could get an adapter"
        raise ConfigError("ModuleNotFound", message, "use full, which trains all of it")
    return linear


def named_layers(layers: Sequence[str], wanted: Sequence[str], field: str) -> list[str]:
    """Those of `layers` that the manifest names by their last parts. Raises ConfigError for a name that none has."""
    if list(wanted) == [ALL_LINEAR]:
        return list(layers)
    for name in wanted:
        if not any(ends_with(layer, name) for layer in layers):
            endings = {layer.rpartition(".")[2] for layer in layers}
            hint = nearest(name, {ALL_LINEAR, *endings}, "layers there are")
            raise ConfigError("ModuleNotFound", f"{field}: the model has no linear layer {name!r}", hint)
    return [layer for layer in layers if any(ends_with(layer, name) for name in wanted)]


def ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _puts_adapters_on(model: PeftModel) -> bool:
    """Whether transformers puts an adapter on a model of this class while loading it."""
    from transformers.integrations.peft import PeftAdapterMixin

    found: Any = type(model.get_base_model())
    return found.load_adapter is PeftAdapterMixin.load_adapter
