"""freeze: the backbone, or some of its layers, stays as it is; the rest is trained whole."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, cast

from finetune_api.method import Method
from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.head import head_of, output_embeddings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

FIELD = "spec.method.freeze"
BELOW = -1
"""The number of what lies below the first layer."""


class Frozen:
    def __init__(self, method: Method) -> None:
        self.freeze = method.freeze

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:
        from finetune_trainer.methods.frozen import hold

        trained = self._above(model) if self.freeze.layers is not None else _answering(model, new)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained or name in new)
        hold(model)
        return model

    def _above(self, model: PreTrainedModel) -> set[str]:
        """The parameters outside the frozen layers. Raises ConfigError for layers that the model does not have."""
        numbers, count = layer_numbers(model)
        wanted = chosen(self.freeze.layers or "")
        if too_many := sorted(wanted - set(range(count))):
            message = f"{FIELD}.layers: the model has {count} layers, 0 to {count - 1}; there is no {too_many[0]}"
            raise ConfigError("NoSuchLayer", message, f"use numbers up to {count - 1}")
        frozen = wanted | {BELOW} if 0 in wanted else wanted
        trained = {name for name, number in numbers.items() if number not in frozen}
        if not trained:
            message = f"{FIELD}.layers: {self.freeze.layers} leaves nothing of the model to train"
            raise ConfigError("NothingToTrain", message, "leave out the last layers")
        return trained

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:  # noqa: ARG002
        cast("PreTrainedModel", module).save_pretrained(str(folder))


def _answering(model: PreTrainedModel, new: Collection[str]) -> set[str]:
    """The head, also where its weights are those of the file. Raises ConfigError where it cannot be told apart."""
    found = head_of(model, new) | _around_towers(model)
    if not found or (output_embeddings(model) is not None and found == set(new)):
        found = _beside_tokens(model)
    if not found:
        message = f"{FIELD}.backbone: what says tokens in this model is no head that could be trained alone"
        raise ConfigError("NoHead", message, f"set {FIELD}.layers, for example 0-3, or use lora")
    return found


def _beside_tokens(model: PreTrainedModel) -> set[str]:
    """The head that says characters of CTC: it is no model of language, but a classifier of moments."""
    inside = f"{model.base_model_prefix}."
    if not type(model).__name__.endswith("ForCTC"):
        return set()
    return {name for name, _ in model.named_parameters() if not name.startswith(inside)}


def _around_towers(model: PreTrainedModel) -> set[str]:
    """Where several models stand side by side, as in CLIP: what joins them."""
    from transformers import PreTrainedModel

    towers = [f"{name}." for name, part in model.named_children() if isinstance(part, PreTrainedModel)]
    if len(towers) < 2 or output_embeddings(model) is not None:
        return set()
    return {name for name, _ in model.named_parameters() if not name.startswith(tuple(towers))}


def layer_numbers(model: nn.Module) -> tuple[dict[str, int | None], int]:
    """Each parameter's layer counted from 0, -1 below the first and None above the last; and how many there are.

    Stacks of layers that stand side by side, as encoder and decoder, are each counted from 0.
    """
    from finetune_trainer.training.layers import HEAD, Layers

    layers = Layers(model)
    numbers: dict[str, int | None] = {}
    for name, _ in model.named_parameters():
        inside = (name.removeprefix(f"{stack.name}.") for stack in layers.stacks if name.startswith(f"{stack.name}."))
        number = next(inside, None)
        if number is not None:
            numbers[name] = int(number.split(".", 1)[0])
        else:
            numbers[name] = None if layers.depth(name) == HEAD else BELOW
    return numbers, max(stack.layers for stack in layers.stacks)


def chosen(text: str) -> set[int]:
    """The numbers of `0-3,11`. Raises ConfigError for a range that has none."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            message = f"{FIELD}.layers: {part} has no layer"
            raise ConfigError("NoSuchLayer", message, f"write the lower number first: {last}-{first}")
        found |= set(numbers)
    return found
