"""The longest batch first: where memory does not suffice, a run is to end in its first minute, not in its third hour.

Before its first step an attempt computes the gradient of the longest micro-batch that the run will meet, beside as many
bytes as the optimizer is going to keep, and throws both away. Nothing depends on it: random numbers are seeded for each
micro-batch, averages of batch norms are put back, and neither the loss nor the gradient is kept. Every process takes
the same rows, so that all do the same together.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Sequence

import torch

from finetune_trainer import heartbeat
from finetune_trainer.optimizer_bytes import state_bytes
from finetune_trainer.tasks.base import Batch
from finetune_trainer.training.aiming import outputs_of
from finetune_trainer.training.feeding import MicroBatch, computed_at_once, made
from finetune_trainer.training.run import Run
from finetune_trainer.training.state import seed_everything

log = logging.getLogger(__name__)
CPU_STEPS = 200
"""Steps that a run on a CPU has at least to go, so that this costs less than a hundredth of it."""
CANDIDATES = 8
"""Steps, those with the longest rows, whose micro-batches are looked at."""


def warm_up(run: Run) -> None:
    """Compute the longest micro-batch once, on a GPU always, on a CPU where many steps are to come."""
    left = run.choices.total_steps - run.state.step
    if left <= 0 or (run.world.device.type == "cpu" and left < CPU_STEPS):
        return
    started, part = time.monotonic(), longest(run)
    buffers = [(buffer, buffer.clone()) for buffer in run.model.buffers()]
    reserved = _reserve(run)
    _compute(run, part)
    del reserved
    for buffer, before in buffers:
        buffer.copy_(before)
    run.optimizer.zero_grad()
    for table in run.tables:
        table.clear()
    seconds = time.monotonic() - started
    log.info("the longest micro-batch, with %d tokens, fits (%.1f s)", part.batch.tokens, seconds)
    run.log_time += seconds
    run.first_time += seconds


def longest(run: Run) -> MicroBatch:
    """Of those that an epoch has for the first process, the one that takes the most."""
    sampler = run.sampler
    first = run.state.step // sampler.steps_per_epoch * sampler.steps_per_epoch
    steps = range(first, first + sampler.steps_per_epoch)
    likely = heapq.nlargest(CANDIDATES, steps, key=lambda step: _weight(run, sampler.indices(step)))
    found = ((step, cells) for step in likely for cells in computed_at_once(run, step, rank=0))
    step, cells = max(found, key=lambda item: _weight(run, [index for _, rows in item[1] for index, _ in rows]))
    return made(run, step, cells)


def _weight(run: Run, rows: Sequence[int]) -> int:
    """Tokens, with the padding that there is."""
    sizes = run.sizes[rows]
    return int(sizes.sum() if run.choices.padding_free else sizes.max() * len(rows))


def _reserve(run: Run) -> list[torch.Tensor]:
    """As many bytes as the optimizer will keep and does not yet; written to, or a host would not give them."""
    optimizer = run.config.training.optimizer
    missing = [weight for weight in run.parameters if weight not in run.optimizer.state]
    sizes = (state_bytes(optimizer, _own_shape(weight)) for weight in missing)
    return [torch.full((size,), 1, dtype=torch.uint8, device=run.world.device) for size in sizes]


def _own_shape(weight: torch.Tensor) -> torch.Size:
    """Of the part of a weight that this process has."""
    local: torch.Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return local.shape


def _compute(run: Run, part: MicroBatch) -> None:
    batch = part.batch.to(run.world.device)
    heartbeat.beat()
    seed_everything(part.seed)
    with run.world.with_peers(), part.drawing():
        run.accelerator.backward(_value(run, batch))
    heartbeat.beat()


def _value(run: Run, batch: Batch) -> torch.Tensor:
    """What depends on every weight that a step's loss depends on."""
    outputs = outputs_of(run.replica, batch)
    if not run.task.whole_batch:
        return run.task.loss(outputs, batch)
    values = [*run.task.embed(outputs), *run.task.shared_parameters(run.model)]
    return sum((value.float().sum() for value in values), torch.zeros((), device=run.world.device))
