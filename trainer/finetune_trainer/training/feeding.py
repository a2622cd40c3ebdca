"""A process's micro-batches of each step, put together ahead of time by threads of their own.

What a step's micro-batches are follows from its number alone, and so do the random numbers in them. So nothing that was
prepared has to be saved, and a run that stops throws it away. Reading, decoding and resizing give up Python's lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from finetune_trainer.data.sampler import draw_seed, share
from finetune_trainer.tasks.base import Batch
from finetune_trainer.training.draws import Cell, Draws
from finetune_trainer.training.padding import SIDE_BY_SIDE

if TYPE_CHECKING:
    from finetune_trainer.training.run import Drawn, Run

Item = TypeVar("Item")
Made = TypeVar("Made")
MOST_WORKERS = 8
JOINED_TOKENS = 16384
"""Most tokens that are computed at once on a CPU where texts are not padded: a step of 32 texts of BERT's longest."""
Cells = list[tuple[int, "list[Drawn]"]]
"""Parts that a step is cut into, with their numbers."""


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's rows, its number among the step's parts, and the seed of its random numbers.

    Where several parts are computed at once, or one without padding on a CPU, `cells` draw for each its own.
    """

    batch: Batch
    number: int
    seed: int
    cells: tuple[Cell, ...] = ()

    def drawing(self) -> AbstractContextManager[object]:
        """For forward and backward."""
        return Draws(self.cells) if self.cells else nullcontext()


class Feed(Generic[Made]):
    """What is made ahead by its number: as many as there are `workers`, beside the one that is waited for."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="feed")
        self._coming: dict[int, Future[Made]] = {}

    def take(self, number: int, last: int, make: Callable[[int], Made]) -> Made:
        """What `make` makes of `number`; those behind it, up to `last`, are begun."""
        for coming in range(number, min(number + self.workers, last) + 1):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(make, coming)
        return self._coming.pop(number).result()

    def settle(self) -> None:
        """Wait until nothing is being prepared: a tokenizer must not be used by two threads at once."""
        wait(self._coming.values())

    def close(self) -> None:
        """Nothing more is wanted."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def ahead(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[tuple[Item, Made]]:
    """Each item with what `make` makes of it, in a thread of its own while the item before is used."""
    every = list(items)
    with closing(Feed[Made](1)) as feed:
        for number, item in enumerate(every):
            yield item, feed.take(number, len(every) - 1, lambda coming: make(every[coming]))


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
    return [made(run, step, cells) for cells in computed_at_once(run, step, run.world.rank)]


def computed_at_once(run: Run, step: int, rank: int) -> list[Cells]:
    """The parts of a step that the process `rank` has, in groups that it computes at once."""
    parts = share(run.cut(step), rank, run.world.size)
    return _together(run, parts) if _joins(run) else [[part] for part in parts]


def made(run: Run, step: int, cells: Cells) -> MicroBatch:
    """What is computed at once of a step, put together."""
    if _joins(run):
        return _joined(run, step, cells)
    ((number, rows),) = cells
    pinned = run.world.device.type == "cuda"
    return MicroBatch(_collated(run, rows, pinned), number, draw_seed(run.config.training.seed, step, number))


def _joins(run: Run) -> bool:
    return run.choices.padding_free and run.world.device.type == "cpu"


def _together(run: Run, parts: Cells) -> list[Cells]:
    """Parts to compute at once: as many as there are tokens for, because larger matrix products are faster.

    Each part by itself where the manifest says how many rows a process may compute at once.
    """
    alone = run.config.training.micro_batch_size is not None or run.config.task not in SIDE_BY_SIDE
    together: list[Cells] = []
    room = 0
    for number, rows in parts:
        tokens = sum(run.sizes[index] for index, _ in rows)
        if alone or tokens > room:
            together.append([])
            room = JOINED_TOKENS
        together[-1].append((number, rows))
        room -= tokens
    return together


def _joined(run: Run, step: int, parts: Cells) -> MicroBatch:
    """Parts one behind the other. What they draw does not depend on which are computed together."""
    seed, task = run.config.training.seed, run.task
    examples = [[run.train.drawn(*row) for row in rows] for _, rows in parts]
    batch = task.collate([example for own in examples for example in own])
    texts = [sum(map(task.pieces, own)) for own in examples]
    if len(parts) == 1:
        texts = [len(batch.inputs["input_ids"])]
    cells = [Cell(draw_seed(seed, step, number), count) for (number, _), count in zip(parts, texts, strict=True)]
    return MicroBatch(batch, parts[0][0], draw_seed(seed, step, 0), tuple(cells))


def _collated(run: Run, rows: Sequence[Drawn], pinned: bool) -> Batch:
    """In memory that a GPU can read while it computes, where it is meant for one."""
    batch = run.task.collate([run.train.drawn(*row) for row in rows])
    return batch.pinned() if pinned else batch
