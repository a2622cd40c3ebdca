"""Dropout whose random numbers go by rows, not by who computes them or what else is computed beside them.

A step's rows are cut into the same cells however many processes there are; a micro-batch is one or several of them, one
behind the other. Each cell draws its own numbers, seeded by the step, its number and how many draws the model has made
before. For that a draw takes one number of torch's generator, which `checkpoint` puts back when it computes again.

Drawing is also faster: 16 random bits decide of each value, four at a time. torch's own `bernoulli_` took 27 ns a value
where this takes 2, because on a CPU it asks its generator in one thread for a whole float. So probabilities are rounded
to 1/65536, and values that stay are scaled by what follows from that: the mean is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from finetune_trainer.training.padding_free import Texts

STEPS = 1 << 16
"""Probabilities are multiples of one of so many parts."""
LOWEST = -(1 << 15)
AT_ONCE = 4
"""Values that a draw of 64 bits decides of."""
TORCHS = functional.dropout
SPREAD = 0x9E3779B1
"""2³² divided by the golden ratio: neighbouring seeds end far apart."""


@dataclass(frozen=True)
class Cell:
    """The seed of some texts that stand side by side in a micro-batch, and how many they are."""

    seed: int
    texts: int


@dataclass(frozen=True)
class Chance:
    """The probability that a value is dropped."""

    parts: int

    @classmethod
    def of(cls, probability: float) -> Chance:
        return cls(min(round(probability * STEPS), STEPS))

    @property
    def scale(self) -> float:
        """What the values that stay are multiplied by."""
        return STEPS / (STEPS - self.parts) if self.parts < STEPS else 0.0


class Draws:
    """While it is entered, for forward and backward of a micro-batch, dropout draws its numbers by cells.

    It stands in the place of torch's function, which all modules call by its name: torch's own way to step in between,
    a mode, is left in the backward pass, in which activations may be computed again.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self._laid_out: list[Texts] = []

    def __enter__(self) -> Draws:
        global _current
        assert _current is None
        _current = self
        functional.dropout = self._dropout  # type: ignore[assignment]  # its parameter has another name
        return self

    def __exit__(self, *error: object) -> None:
        global _current
        _current = None
        functional.dropout = TORCHS

    def laid_out(self, texts: Texts) -> None:
        """From now on there are tokens of such texts."""
        self._laid_out.append(texts)

    def _dropout(self, values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        texts, (first, second) = sum(cell.texts for cell in self.cells), (*values.shape, 0, 0)[:2]
        flat = next((own for own in self._laid_out if (first, second) == (1, own.tokens)), None)
        padded = next((own for own in self._laid_out if (first, second) == (texts, own.width)), None)
        known = flat is not None or padded is not None or first == texts
        if not training or p == 0.0 or values.device.type != "cpu" or not known:
            return TORCHS(values, p, training, inplace)
        owner = flat or padded
        lengths, places = ([1] * texts, first) if owner is None else (owner.lengths, first * second)
        each, chance = values.numel() // places, Chance.of(p)
        keep = torch.cat(self.kept([count * each for count in self._per_cell(lengths)], chance))
        if flat is None and padded is not None:
            keep = padded.restored(keep.view(1, -1, *values.shape[2:]))
        return drop(values, keep.view(values.shape), chance.scale)

    def _per_cell(self, counts: Sequence[int]) -> list[int]:
        """What the texts of each cell have together."""
        rest = iter(counts)
        return [sum(next(rest) for _ in range(cell.texts)) for cell in self.cells]

    def kept(self, counts: Sequence[int], chance: Chance) -> list[torch.Tensor]:
        """Of as many values for each cell as `counts` says, whether each stays."""
        call = int(torch.empty((), dtype=torch.int64).random_())
        starts, total = [], 0
        for count in counts:
            starts.append(total)
            total += -(-count // AT_ONCE)
        bits = torch.empty(total, dtype=torch.int64)
        generator = torch.Generator()
        for cell, start, end in zip(self.cells, starts, [*starts[1:], total], strict=True):
            generator.manual_seed((cell.seed * SPREAD + call) % (1 << 32))
            bits[start:end].random_(-(1 << 63), None, generator=generator)
        stays = bits.view(torch.int16) >= LOWEST + chance.parts
        return [stays[AT_ONCE * start : AT_ONCE * start + count] for start, count in zip(starts, counts, strict=True)]


_current: Draws | None = None


def current() -> Draws | None:
    """The draws of the micro-batch that is being computed; None where torch draws for itself."""
    return _current


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
