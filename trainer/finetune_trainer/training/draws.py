"""Dropout whose random numbers go by rows, not by who computes them or what else is computed beside them.

A step's rows are cut into the same cells however many processes there are; a micro-batch is one or several of them, one
behind the other. Each cell draws its own numbers, seeded by the step, its number and how many draws the model has made
before. For that a draw takes one number of torch's generator, which `checkpoint` puts back when it computes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from finetune_trainer.training.dropout import Chance, drawn_seed, drop, stays

if TYPE_CHECKING:
    from finetune_trainer.training.padding_free.texts import Texts

TORCHS = functional.dropout


@dataclass(frozen=True)
class Cell:
    """The seed of some texts that stand side by side in a micro-batch, and how many they are."""

    seed: int
    texts: int


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
        call = drawn_seed()
        return [stays([cell.seed, call], count, chance) for cell, count in zip(self.cells, counts, strict=True)]


_current: Draws | None = None


def current() -> Draws | None:
    """The draws of the micro-batch that is being computed; None where torch draws for itself."""
    return _current
