"""What of a run's rows memory depends on: the longest ones, and how long they are on average."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from finetune_api.job import Task
from finetune_trainer.data.examples import Sizes
from finetune_trainer.data.rows import CHUNK, Rows
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.tasks.base import TRAINING, Example, TaskKind

MOST_LOOKED_AT = 50_000
"""Rows that are encoded to look for the longest; of more, so many at even distances."""
MOST_KEPT = 512
"""Rows, the longest of them, that a micro-batch is made of; of a larger one they are repeated."""


@dataclass(frozen=True)
class Lengths:
    """The longest rows, encoded, the longest first; and tokens, or what else a task measures a row by."""

    longest: Sequence[Example]
    sizes: Sizes
    rows: int

    @property
    def looked_at(self) -> int:
        return len(self.sizes)

    @property
    def mean(self) -> float:
        return float(self.sizes.mean())

    @property
    def most(self) -> int:
        return int(self.sizes.max())

    def most_in_a_step(self, sampler: Sampler, rows: int) -> int:
        """The most tokens that the `rows` longest rows of a step have, over the first epoch; of a sample a bound."""
        if self.looked_at < self.rows:
            return int(numpy.sort(self.sizes)[::-1][:rows].sum())
        steps = (self.sizes[sampler.indices(step)] for step in range(sampler.steps_per_epoch))
        return max(int(numpy.sort(sizes)[::-1][:rows].sum()) for sizes in steps)

    def batch(self, rows: int) -> list[Example]:
        """The longest micro-batch of so many rows that there can be."""
        return [self.longest[place % len(self.longest)] for place in range(rows)]


def measured(task: TaskKind, rows: Rows) -> Lengths:
    """Encode the rows, and keep the longest. Raises DataError for a row that the model cannot take."""
    looked = (
        rows if len(rows) <= MOST_LOOKED_AT else rows.take(numpy.linspace(0, len(rows) - 1, MOST_LOOKED_AT, dtype=int))
    )
    longest: list[tuple[int, int, Example]] = []
    sizes: list[int] = []
    for chunk in looked.chunks(CHUNK):
        for example in task.encode(chunk)[0]:
            size = task.size(example)
            sizes.append(size)
            _keep(longest, (size, -len(sizes), example))
    ordered = [_drawn(task, example) for _, _, example in sorted(longest, key=lambda item: item[:2], reverse=True)]
    return Lengths(ordered, numpy.asarray(sizes), len(rows))


def _keep(longest: list[tuple[int, int, Example]], item: tuple[int, int, Example]) -> None:
    if len(longest) < MOST_KEPT:
        heapq.heappush(longest, item)
    elif item[:2] > longest[0][:2]:
        heapq.heapreplace(longest, item)


def _drawn(task: TaskKind, example: Example) -> Example:
    """As a step gets it; preferences with what the reference model would have said."""
    known = {"reference": (0.0, 0.0)} if task.config.task is Task.PREFERENCE_OPTIMIZATION else {}
    return {**example, "draw": 0, TRAINING: True, **known}
