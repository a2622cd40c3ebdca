"""A process's micro-batches of each step, put together from its rows."""

from __future__ import annotations

import time

from finetune_trainer.data.sampler import draw_seed, share
from finetune_trainer.training.gradients import MicroBatch
from finetune_trainer.training.run import Run


def next_batches(run: Run) -> list[MicroBatch]:
    """This process's micro-batches of the next step, the longest first; empty if there are too few for it."""
    started = time.monotonic()
    step, seed = run.state.step, run.config.training.seed
    parts = [
        MicroBatch(
            run.task.collate([run.train.drawn(*row) for row in rows]),
            number,
            draw_seed(seed, step, number),
        )
        for number, rows in share(run.cut(step), run.world.rank, run.world.size)
    ]
    run.data_wait += time.monotonic() - started
    return parts
