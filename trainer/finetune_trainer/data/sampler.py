"""Which rows make up an optimizer step, and how they are cut for the processes.

The rows of a step depend on seed and step only, never on the number of processes. The rows are cut into the same
micro-batches however many processes there are, and each draws its own random numbers, so that the sums of a step
differ in nothing but their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy

from finetune_trainer.schedule import steps_per_epoch


@dataclass(frozen=True)
class Sampler:
    """Each epoch is a permutation drawn from (seed, epoch); the position in it follows from the step."""

    rows: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.rows, self.batch)

    def epoch(self, step: int) -> float:
        """Passes over the rows after `step` steps."""
        whole, part = divmod(step, self.steps_per_epoch)
        return whole + part * self.batch / self.rows

    def indices(self, step: int) -> list[int]:
        """Rows of the step that follows `step` done ones."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _permutation(self.seed, epoch, self.rows)
        return order[position * self.batch : (position + 1) * self.batch]


def draw_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of the random numbers (dropout) for one micro-batch: 32 bits, the same whoever computes it.

    So there is no generator whose state would have to be saved, and the number of processes does not show.
    """
    text = f"{seed}/{step}/{micro_batch}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> list[int]:
    generator = numpy.random.Generator(numpy.random.PCG64([seed, epoch]))
    order: list[int] = generator.permutation(rows).tolist()
    return order


def micro_batches(indices: Sequence[int], sizes: Sequence[int], rows: int) -> list[list[int]]:
    """`indices` in micro-batches of at most `rows`, alike in size, the longest first.

    `sizes` has the tokens of every row of the data set.
    """
    ordered = sorted(indices, key=lambda index: (-sizes[index], index))
    return [ordered[start : start + rows] for start in range(0, len(ordered), rows)]


def share(batches: Sequence[list[int]], rank: int, size: int) -> list[tuple[int, list[int]]]:
    """The micro-batches of one rank with their numbers: dealt to and fro, so that each gets long and short ones."""
    return [(number, batch) for number, batch in enumerate(batches) if _dealt_to(number, size) == rank]


def _dealt_to(number: int, size: int) -> int:
    """Who gets the card with this number: 0 1 2, 2 1 0, 0 1 2, …"""
    turn, place = divmod(number, size)
    return place if turn % 2 == 0 else size - 1 - place
