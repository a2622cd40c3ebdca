"""What attention looks at, and how the texts are laid out for it: in groups of about one length, each padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy
import torch

from finetune_trainer.training.padding_free.texts import Taken, Texts

GROUP_COST = 3000
"""What another group costs, in pairs of tokens that attention looks at: the calls of a dozen small operations."""


class _Spread(torch.autograd.Function):
    """values[there], where a place may be taken twice: once for itself, at `back`, and for padding, whose gradient is
    zero or without meaning.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return values.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None


@dataclass(frozen=True)
class Group:
    """Texts that attention computes together, from `first` to before `end`: so many tokens ask, so many are asked."""

    first: int
    end: int
    asking: int
    asked: int

    @property
    def texts(self) -> int:
        return self.end - self.first


class Pattern:
    """Which tokens attention looks at: those of the same text, or of what belongs to it; `causal`, no later ones.

    `cells` are the texts of each cell that draws its own random numbers: no group has texts of two cells.
    """

    def __init__(self, asking: Texts, asked: Texts, causal: bool, cells: Sequence[int]) -> None:
        self.asking = asking
        self.asked = asked
        self.causal = causal
        self.groups: list[list[Group]] = []
        first = 0
        for texts in cells:
            self.groups.append(grouped(asking.lengths, asked.lengths, first, first + texts))
            first += texts
        self._places: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._masks: dict[Group, torch.Tensor | None] = {}

    @cached_property
    def every(self) -> list[Group]:
        return [group for groups in self.groups for group in groups]

    def places(self, side: str, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each place of the groups, (texts, heads, width) one group after the other, is found among the tokens'
        heads, (tokens, heads); and where those stand in the groups. `side` is asking or asked.
        """
        key = (side, heads)
        if key not in self._places:
            texts = cast("Texts", getattr(self, side))
            widths = [getattr(group, side) for group in self.every]
            self._places[key] = _places(texts, self.every, widths, heads)
        return self._places[key]

    def spread(self, side: str, states: torch.Tensor) -> list[torch.Tensor]:
        """(1, heads, tokens, size) as (texts, heads, width, size) of each group."""
        heads, size = states.shape[1], states.shape[3]
        there, back = self.places(side, heads)
        flat = states.transpose(1, 2).reshape(-1, size)
        spread = _Spread.apply(flat, there, back)
        widths = [getattr(group, side) for group in self.every]
        shapes = [(group.texts, heads, width, size) for group, width in zip(self.every, widths, strict=True)]
        parts = spread.split([texts * heads * width for texts, _, width, _ in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def gathered(self, said: Sequence[torch.Tensor]) -> torch.Tensor:
        """What was said in the groups, (1, tokens, heads, size)."""
        heads, size = said[0].shape[1], said[0].shape[3]
        _, back = self.places("asking", heads)
        rows = [part.reshape(-1, size) for part in said]
        joined = rows[0] if len(rows) == 1 else torch.cat(rows)
        flat: torch.Tensor = Taken.apply(joined, back)
        return flat.view(1, -1, heads, size)

    def mask(self, group: Group) -> torch.Tensor | None:
        """(texts or 1, 1, asking or 1, asked), whether to look; None if at everything.

        Under causal attention no token that is not padding comes to look at padding, which stands behind.
        """
        if group not in self._masks:
            self._masks[group] = self._mask(group)
        return self._masks[group]

    def _mask(self, group: Group) -> torch.Tensor | None:
        device = self.asked.device
        if self.causal:
            square = torch.ones(group.asking, group.asked, dtype=torch.bool, device=device)
            return square.tril()[None, None] if group.asking > 1 else None
        lengths = self.asked.lengths[group.first : group.end]
        if min(lengths) == group.asked:
            return None
        known = torch.tensor(lengths, device=device)[:, None]
        return (torch.arange(group.asked, device=device) < known)[:, None, None]


def _places(
    texts: Texts, groups: Sequence[Group], widths: Sequence[int], heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    device, lengths = texts.device, torch.tensor(texts.lengths, device=texts.device)
    every_head = torch.arange(heads, device=device)
    there, begins, steps, begin = [], [], [], 0
    for group, width in zip(groups, widths, strict=True):
        own = slice(group.first, group.end)
        # What stands for padding is the text's last token: any finite number will do.
        inside = torch.minimum(torch.arange(width, device=device), lengths[own, None] - 1) + texts.starts[own, None]
        there.append((inside[:, None, :] * heads + every_head[None, :, None]).flatten())
        begins += [begin + number * heads * width for number in range(group.texts)]
        steps += [width] * group.texts
        begin += group.texts * heads * width
    first, step = (torch.tensor(values, device=device)[texts.owners] for values in (begins, steps))
    back = (first + texts.positions)[:, None] + step[:, None] * every_head
    return torch.cat(there), back.flatten()


def grouped(asking: Sequence[int], asked: Sequence[int], first: int, end: int) -> list[Group]:
    """The texts from `first` to before `end`, which keep their order, in the groups that cost least.

    A group costs the pairs of tokens that are looked at when its texts are padded to its longest, and GROUP_COST.
    """
    ours, theirs = numpy.asarray(asking[first:end]), numpy.asarray(asked[first:end])
    count = len(ours)
    best, cut = numpy.zeros(count + 1), [0] * (count + 1)
    for stop in range(1, count + 1):
        widths = [numpy.maximum.accumulate(some[:stop][::-1])[::-1] for some in (ours, theirs)]
        costs = best[:stop] + numpy.arange(stop, 0, -1) * widths[0] * widths[1] + GROUP_COST
        cut[stop] = int(costs.argmin())
        best[stop] = costs[cut[stop]]
    groups, stop = [], count
    while stop:
        begin = cut[stop]
        widest = int(ours[begin:stop].max()), int(theirs[begin:stop].max())
        groups.append(Group(first + begin, first + stop, *widest))
        stop = begin
    return groups[::-1]
