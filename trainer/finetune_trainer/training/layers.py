"""The layers of a model, whatever its architecture: found by the lists that their author put them in.

Blocks that repeat stand in a `ModuleList`, a stack: 12 in BERT's encoder, 4 stages in a ResNet. A model may have
several side by side, as text and image in CLIP, or encoder and decoder in T5; each is counted for itself, from its top.
Where a model has stacks with linear layers, those without, as the convolutions that read Wav2Vec2's sound, lie below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_trainer.errors import ConfigError

HEAD = 0
"""Depth of what lies above the layers: the head, a last norm, a pooler."""


@dataclass(frozen=True)
class Stack:
    """A list of layers, by its name in the model, and the number of its first parameter."""

    name: str
    layers: int
    first: int


class Layers:
    """How deep each parameter of a model lies: 0 in the head, then 1 in the topmost layer, and so on to embeddings.

    Raises ConfigError for a model without stacks.
    """

    def __init__(self, model: nn.Module) -> None:
        self._order = {name: number for number, (name, _) in enumerate(model.named_parameters())}
        self.stacks = [Stack(name, layers, self._first(name)) for name, layers in _stacks(model)]
        if not self.stacks:
            message = "spec.model.uri: the model has no list of layers that could be told apart"
            raise ConfigError("NoLayers", message, "leave out what sets layers apart, or use another model")

    @property
    def deepest(self) -> int:
        """The depth of what lies below the longest stack."""
        return max(stack.layers for stack in self.stacks) + 1

    def depth(self, parameter: str) -> int:
        """0 in the head, 1 to n in the n layers of a stack from its top, n + 1 below them.

        What a model with several stacks has of its own, such as CLIP's temperature, belongs to the head.
        """
        owner = parameter.rpartition(".")[0]
        if sum(_inside(stack.name, owner) for stack in self.stacks) > 1:
            return HEAD
        stack = max(self.stacks, key=lambda stack: _shared(stack.name, parameter))
        inside = parameter.removeprefix(f"{stack.name}.")
        if inside != parameter:
            return stack.layers - int(inside.split(".", 1)[0])
        return HEAD if self._order[parameter] > stack.first else stack.layers + 1

    def _first(self, stack: str) -> int:
        return min(number for name, number in self._order.items() if name.startswith(f"{stack}."))


def _stacks(model: nn.Module) -> list[tuple[str, int]]:
    """Name and length of each outermost list of layers that have parameters."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if _is_stack(module) and not any(_inside(name, other) for other in found):
            found[name] = cast("nn.ModuleList", module)
    models = [name for name, module in model.named_modules() if isinstance(module, PreTrainedModel)]
    linear = {_owner(name, models) for name, stack in found.items() if _has_linear(stack)}
    return [
        (name, len(stack)) for name, stack in found.items() if _has_linear(stack) or _owner(name, models) not in linear
    ]


def _is_stack(module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) < 2:
        return False
    return all(next(layer.parameters(), None) is not None for layer in module)


def _has_linear(stack: nn.Module) -> bool:
    return any(isinstance(module, nn.Linear | Conv1D) for module in stack.modules())


def _owner(name: str, models: list[str]) -> str:
    """The innermost of `models` that the module is part of."""
    return max((model for model in models if _inside(name, model)), key=len, default="")


def _inside(name: str, module: str) -> bool:
    return module == "" or name.startswith(f"{module}.")


def _shared(name: str, other: str) -> int:
    """How many parts two names have in common at their beginning."""
    count = 0
    for one, two in zip(name.split("."), other.split("."), strict=False):
        if one != two:
            break
        count += 1
    return count
