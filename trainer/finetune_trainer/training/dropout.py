"""Dropout on a CPU, where torch asks a generator of 1998 for a whole number for each value, in a single thread.

Here 64 random bits of SFC64 decide of four values at once, so probabilities are multiples of 1/65536, and values that
stay are scaled by what follows from that: the mean is exact. The seed of each draw is one of torch's own numbers, so
what is dropped goes by position as before, and activations that are computed again are dropped again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import nn

STEPS = 1 << 16
LOWEST = -(1 << 15)
AT_ONCE = 4
"""Values that a draw of 64 bits decides of."""


@dataclass(frozen=True)
class Chance:
    """The probability that a value is dropped, in parts of `STEPS`."""

    parts: int

    @classmethod
    def of(cls, probability: float) -> Chance:
        return cls(min(round(probability * STEPS), STEPS))

    @property
    def scale(self) -> float:
        """What the values that stay are multiplied by."""
        return STEPS / (STEPS - self.parts) if self.parts < STEPS else 0.0


def drawn_seed() -> int:
    """The next number of torch's generator, to seed a draw with."""
    return int(torch.empty((), dtype=torch.int64).random_())


def stays(seed: int | list[int], count: int, chance: Chance) -> torch.Tensor:
    """Of so many values, (count,), whether each stays."""
    # random_raw has the first bits of the stream, whatever release of numpy it is.
    bits = numpy.random.SFC64(seed).random_raw(-(-count // AT_ONCE)).view(numpy.int16)
    return torch.from_numpy(bits)[:count] >= LOWEST + chance.parts


class _Drop(torch.autograd.Function):
    """values · keep · scale in one pass, with one byte a value kept for the way back."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return drop_scaled(values, keep, scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (keep,) = ctx.saved_tensors
        return drop_scaled(gradient, keep, ctx.scale), None, None


def drop(values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
    """The values that stay, scaled, and zero for the others."""
    dropped: torch.Tensor = _Drop.apply(values, keep, scale)
    return dropped


def drop_scaled(values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
    """The same in one pass and without a way back: values · keep · scale."""
    dropped: torch.Tensor = torch.ops.aten.native_dropout_backward(values, keep, scale)
    return dropped


def draw_faster(model: nn.Module) -> None:
    """From now on the dropouts of `model` that train draw in this way, on a CPU; attention's, inside of torch, not."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            object.__setattr__(module, "forward", lambda value, own=module: _dropped(own, value))


def _dropped(module: nn.Dropout, value: torch.Tensor) -> torch.Tensor:
    chance = Chance.of(module.p)
    if not module.training or not 0 < chance.parts < STEPS or value.device.type != "cpu":
        return nn.functional.dropout(value, module.p, module.training)
    keep = stays(drawn_seed(), value.numel(), chance)
    return drop(value, keep.view(value.shape), chance.scale)
