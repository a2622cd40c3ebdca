"""Which rows make up an optimizer step, and how they are cut for the processes.

The rows of a step depend on seed and step only, never on the number of processes. The rows are cut into the same
micro-batches however many processes there are, and each draws its own random numbers, so that the sums of a step
differ in nothing but their order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy
from numpy.typing import ArrayLike, NDArray

from finetune_trainer.errors import ConfigError
from finetune_trainer.training.schedule import steps_per_epoch

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Sampler:
    """Each epoch is a permutation drawn from (seed, epoch); the position in it follows from the step.

    With `weights`, one a row, an epoch has each row as often as its weight says. Of a broken weight's rows it has
    another part every epoch, so that all epochs are of one length. With `groups`, a number a row, that holds for the
    rows of each group.
    """

    rows: int
    batch: int
    seed: int
    weights: ArrayLike | None = None
    groups: ArrayLike | None = None

    @cached_property
    def pools(self) -> list[Pool]:
        """The rows of each weight, of each group."""
        weights = numpy.ones(self.rows) if self.weights is None else numpy.asarray(self.weights, dtype=float)
        groups = numpy.zeros(self.rows) if self.groups is None else numpy.asarray(self.groups)
        return [
            Pool(float(weight), numpy.flatnonzero((weights == weight) & (groups == group)))
            for group in numpy.unique(groups)
            for weight in numpy.unique(weights[groups == group])
        ]

    @cached_property
    def epoch_rows(self) -> int:
        """Rows in an epoch, as often as they come. Raises ConfigError if there are none."""
        count = sum(len(pool.rows) * pool.copies + pool.further for pool in self.pools)
        if not count:
            message = f"spec.dataset.train: with these weights an epoch has none of {self.rows} rows"
            raise ConfigError("NothingToTrainOn", message, "give larger weights, or more rows")
        return count

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.epoch_rows, self.batch)

    def epoch(self, step: int) -> float:
        """Epochs that `step` steps make up."""
        whole, part = divmod(step, self.steps_per_epoch)
        return whole + part * self.batch / self.epoch_rows

    def indices(self, step: int) -> list[int]:
        """Rows of the step that follows `step` done ones."""
        epoch, position = divmod(step, self.steps_per_epoch)
        found: list[int] = _order(self, epoch)[position * self.batch : (position + 1) * self.batch].tolist()
        return found

    def copies(self, step: int) -> list[int]:
        """Of each row of that step, how often the epoch had it before."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if all(pool.weight <= 1 for pool in self.pools):
            return [0] * len(self.indices(step))
        found: list[int] = _copies(self, epoch)[position * self.batch : (position + 1) * self.batch].tolist()
        return found


@dataclass(frozen=True)
class Pool:
    """Rows of one weight: an epoch has `copies` of each, and `further` of them once more."""

    weight: float
    rows: numpy.ndarray

    @property
    def copies(self) -> int:
        return math.floor(self.weight)

    @property
    def further(self) -> int:
        return round(len(self.rows) * (self.weight - self.copies))


@lru_cache(maxsize=2)
def _order(sampler: Sampler, epoch: int) -> NDArray[numpy.int64]:
    drawn = []
    for number, pool in enumerate(sampler.pools):
        generator = _generator(sampler.seed, epoch, number)
        drawn += [*[pool.rows] * pool.copies, generator.permutation(pool.rows)[: pool.further]]
    permutation = _generator(sampler.seed, epoch).permutation(sampler.epoch_rows)
    order: NDArray[numpy.int64] = numpy.concatenate(drawn)[permutation]
    return order


@lru_cache(maxsize=2)
def _copies(sampler: Sampler, epoch: int) -> numpy.ndarray:
    """Of each place in an epoch's order, how many places before it have the same row."""
    order = _order(sampler, epoch)
    by_row, places = numpy.argsort(order, kind="stable"), numpy.arange(len(order))
    begins = numpy.diff(order[by_row], prepend=-1) != 0
    copies = numpy.empty(len(order), dtype=numpy.int32)
    copies[by_row] = places - numpy.maximum.accumulate(numpy.where(begins, places, 0))
    return copies


def _generator(*seeds: int) -> numpy.random.Generator:
    return numpy.random.Generator(numpy.random.PCG64(list(seeds)))


def draw_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of the random numbers (dropout) for one micro-batch: 32 bits, the same whoever computes it.

    So there is no generator whose state would have to be saved, and the number of processes does not show.
    """
    return _hash_of(f"{seed}/{step}/{micro_batch}")


def row_seed(seed: int, epoch: int | str, index: int, copy: int = 0) -> int:
    """Seed of the random numbers (masks, augmentation) for one row in one epoch, or in what a tag names: 32 bits.

    Where an epoch has a row more than once, each copy has a seed of its own.
    """
    return _hash_of(f"row/{seed}/{epoch}/{index}" + (f"/{copy}" if copy else ""))


def _hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


def micro_batches(
    indices: Sequence[int], sizes: ArrayLike, rows: int, in_order: bool = False, alike: bool = False
) -> list[list[int]]:
    """`indices` in micro-batches of at most `rows`, alike in size, the longest first.

    `sizes` has the tokens of every row of the data set. `in_order` keeps the order of `indices`, and joins a last
    micro-batch of one row to the one before, because a batch's norm needs two. With `alike` all rows of a micro-batch
    are of one size, for models that may not see padding.
    """
    ordered, every = numpy.asarray(indices, dtype=numpy.int64), numpy.asarray(sizes)
    if not in_order:
        ordered = ordered[numpy.lexsort((ordered, -every[ordered]))]
    runs = numpy.split(ordered, numpy.flatnonzero(numpy.diff(every[ordered])) + 1) if alike else [ordered]
    batches = [run[start : start + rows].tolist() for run in runs for start in range(0, len(run), rows)]
    if in_order and len(batches) > 1 and len(batches[-1]) == 1 and not alike:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def share(batches: Sequence[T], rank: int, size: int) -> list[tuple[int, T]]:
    """The micro-batches of one rank with their numbers: dealt to and fro, so that each gets long and short ones."""
    return [(number, batch) for number, batch in enumerate(batches) if _dealt_to(number, size) == rank]


def _dealt_to(number: int, size: int) -> int:
    """Who gets the card with this number: 0 1 2, 2 1 0, 0 1 2, …"""
    turn, place = divmod(number, size)
    return place if turn % 2 == 0 else size - 1 - place
