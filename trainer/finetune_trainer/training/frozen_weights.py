"""Frozen matrices in the type that they are multiplied in: half the memory, and no cast whenever they are used.

Autocast casts the weights of a linear layer before it multiplies, and keeps the cast of those alone that are trained.
So where nothing but a product reads a frozen weight, keeping the cast changes no bit of what is computed. The model
that is saved has the weights of its file again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_api.method import MethodType
from finetune_api.training import Precision

TYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
READING = frozenset({MethodType.DORA, MethodType.QLORA})
"""Methods that do more with frozen weights than multiply, or keep them in a type of their own."""
TRAINED, WIDE = 16, 4
"""Bytes of a trained weight with its gradient and two means, and of a frozen one in 32 bits."""


@dataclass(frozen=True)
class Narrowed:
    """Linear layers with narrow weights, by their names in the model as it is loaded.

    `lost` says whether any of their weights has more digits in the file than it keeps.
    """

    layers: Mapping[str, nn.Module]
    lost: bool = False


def narrow_type(method: MethodType, precision: str) -> torch.dtype | None:
    """The type that frozen matrices are kept in; None for that of the others."""
    return None if method in READING else TYPES.get(Precision(precision))


def narrowable(model: nn.Module) -> Iterator[nn.Module]:
    """Linear layers of which nothing is trained, and whose weights no other module has, as an embedding may."""
    uses = Counter(id(weight) for part in model.modules() for weight in part.parameters(recurse=False))
    for part in model.modules():
        own = list(part.parameters(recurse=False))
        if type(part) in (nn.Linear, Conv1D) and all(uses[id(item)] == 1 and not item.requires_grad for item in own):
            yield part


def held_bytes(model: nn.Module, narrow: torch.dtype | None) -> int:
    """What the weights of `model` take on a device with all that training keeps beside them, activations left out."""
    half = {id(item) for part in narrowable(model) for item in part.parameters()} if narrow is not None else set()

    def of(item: nn.Parameter) -> int:
        return TRAINED if item.requires_grad else WIDE // 2 if id(item) in half else WIDE

    return sum(item.numel() * of(item) for item in model.parameters())


def narrow(model: nn.Module, names: Mapping[nn.Module, str], kind: torch.dtype | None) -> Narrowed:
    """Keep what can be in `kind`; `names` has what the modules were called before a method put its own around them."""
    if kind is None:
        return Narrowed({})
    layers = {names[part]: part for part in narrowable(model) if part in names}
    lost = [_cast(item, kind) for part in layers.values() for item in part.parameters()]
    return Narrowed(layers, any(lost))


def _cast(item: nn.Parameter, kind: torch.dtype) -> bool:
    """Whether digits were lost."""
    wide = item.data
    item.data = wide.to(kind)
    return not torch.equal(item.data.to(wide.dtype), wide)


def widen(model: nn.Module, narrowed: Narrowed, load: Callable[[], nn.Module]) -> None:
    """Give the layers the weights back that they had; `load` reads the model's file again, if that is needed.

    The whole model goes to the host for that: a GPU that trained it need not have room for it.
    """
    if not narrowed.layers:
        return
    model.to("cpu")
    source = load() if narrowed.lost else None
    for name, part in narrowed.layers.items():
        for own, item in part.named_parameters():
            item.data = item.data.float() if source is None else source.get_parameter(f"{name}.{own}").data
