"""A process's micro-batches of each step, put together ahead of time by threads of their own.

What a step's micro-batches are follows from its number alone, and so do the random numbers in them. So nothing that was
prepared has to be saved, and a run that stops throws it away. Reading, decoding and resizing give up Python's lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from finetune_trainer.data.sampler import draw_seed, share
from finetune_trainer.tasks.base import Batch

if TYPE_CHECKING:
    from finetune_trainer.training.run import Drawn, Run

MOST_WORKERS = 8


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's rows, its number among the step's parts, and the seed of its random numbers."""

    batch: Batch
    number: int
    seed: int


class Feed:
    """Steps that are prepared ahead: as many as there are `workers`, beside the one that is waited for."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="feed")
        self._coming: dict[int, Future[list[MicroBatch]]] = {}

    def take(self, step: int, last: int, make: Callable[[int], list[MicroBatch]]) -> list[MicroBatch]:
        """What `make` says of `step`; the steps behind it, up to `last`, are begun."""
        for coming in range(step, min(step + self.workers, last) + 1):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(make, coming)
        return self._coming.pop(step).result()

    def settle(self) -> None:
        """Wait until nothing is being prepared: a tokenizer must not be used by two threads at once."""
        wait(self._coming.values())

    def close(self) -> None:
        """Nothing more is wanted."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def workers_of(device: torch.device, threads: int) -> int:
    """Threads that prepare: one where the processors are busy with computing, half of them beside a GPU."""
    return 1 if device.type == "cpu" else max(1, min(MOST_WORKERS, threads // 2))


def next_batches(run: Run) -> list[MicroBatch]:
    """This process's micro-batches of the next step, the longest first; empty if there are too few for it."""
    started = time.monotonic()
    parts = run.feed.take(run.state.step, run.choices.total_steps - 1, lambda step: _batches(run, step))
    run.data_wait += time.monotonic() - started
    return parts


def _batches(run: Run, step: int) -> list[MicroBatch]:
    seed, pinned = run.config.training.seed, run.world.device.type == "cuda"
    return [
        MicroBatch(_collated(run, rows, pinned), number, draw_seed(seed, step, number))
        for number, rows in share(run.cut(step), run.world.rank, run.world.size)
    ]


def _collated(run: Run, rows: Sequence[Drawn], pinned: bool) -> Batch:
    """In memory that a GPU can read while it computes, where it is meant for one."""
    batch = run.task.collate([run.train.drawn(*row) for row in rows])
    return batch.pinned() if pinned else batch
