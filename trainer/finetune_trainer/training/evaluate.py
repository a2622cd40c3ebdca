"""Evaluation over all processes: every row once, the loss as a mean over all that it counts, no random number drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune_trainer import heartbeat
from finetune_trainer.data.examples import Changed, sizes_of
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sampler import micro_batches, row_seed
from finetune_trainer.tasks.base import Batch, Example, Report, TaskKind
from finetune_trainer.training.aiming import outputs_of
from finetune_trainer.training.feeding import ahead
from finetune_trainer.training.sharded import dealt, gathered, together
from finetune_trainer.training.stop import StopFlag, StopRequested
from finetune_trainer.training.world import World


@dataclass(frozen=True)
class Encoded:
    """The rows of one side and their examples, in the same order; both may lie on disk, and are read as wanted."""

    rows: Sequence[Row]
    examples: Sequence[Example]

    def drawn(self, index: int, seed: int) -> Example:
        """One example with the seed of its random numbers."""
        return {**self.examples[index], "draw": seed}


def fixed_draws(examples: Sequence[Example], seed: int, tag: str) -> Sequence[Example]:
    """Examples that are only evaluated: each always draws the same random numbers."""
    return Changed(examples, lambda index, example: {**example, "draw": row_seed(seed, tag, index)})


@dataclass(frozen=True)
class Evaluation:
    """The report, and what was predicted for each row."""

    report: Report
    predictions: Sequence[Any]


@dataclass
class _Part:
    """What one process has evaluated."""

    predictions: dict[int, Any]
    loss: float = 0.0
    count: float = 0.0


def evaluate(
    model: nn.Module, task: TaskKind, data: Encoded, world: World, stop: StopFlag, baseline: Sequence[Row] | None = None
) -> Evaluation | None:
    """None except in the main process. Raises StopRequested in all processes at once."""
    batches = evaluation_batches(task, data.examples)
    part = _Part({})
    model.eval()
    with gathered(model):
        collated = ahead(dealt(batches, model, world), lambda item: _collated(task, data, item[0], world.device))
        for (indices, is_own), batch in collated:
            if world.any(stop.requested):
                model.train()
                raise StopRequested
            heartbeat.beat()
            if indices is not None and batch is not None:
                with together(model, world):
                    _add(part if is_own else _Part({}), model, task, indices, batch.to(world.device))
    model.train()
    evaluation = _judged(task, data, world.gather(part), stop, baseline)
    if not world.broadcast(evaluation is not None):
        raise StopRequested
    return evaluation


def evaluation_batches(task: TaskKind, examples: Sequence[Example]) -> list[list[int]]:
    """Which examples are computed together: alike in size, the longest first."""
    sizes = sizes_of(task, examples)
    rows = min(task.evaluation_rows, task.training.micro_batch_size or task.evaluation_rows)
    return micro_batches(range(len(sizes)), sizes, rows, alike=not task.pads)


def _collated(task: TaskKind, data: Encoded, indices: Sequence[int] | None, device: torch.device) -> Batch | None:
    """Some examples as one batch; None where only other processes have some."""
    if indices is None:
        return None
    batch = task.collate([data.examples[index] for index in indices])
    return batch.pinned() if device.type == "cuda" else batch


@torch.no_grad()
def _add(part: _Part, model: nn.Module, task: TaskKind, indices: Sequence[int], batch: Batch) -> None:
    outputs = outputs_of(model, batch)
    if not task.whole_batch:
        part.loss += task.loss(outputs, batch).item()
        part.count += batch.count
    part.predictions |= dict(zip(indices, task.predict(model, batch, outputs), strict=True))


def _judged(
    task: TaskKind, data: Encoded, parts: Sequence[_Part] | None, stop: StopFlag, baseline: Sequence[Row] | None
) -> Evaluation | None:
    """None in processes that do not have the parts, and where it is left because we are asked to stop."""
    if parts is None:
        return None
    try:
        with stop.interrupting():
            return _judge(task, data, parts, baseline)
    except StopRequested:
        return None


def _judge(task: TaskKind, data: Encoded, parts: Sequence[_Part], baseline: Sequence[Row] | None) -> Evaluation:
    found = {index: prediction for part in parts for index, prediction in part.predictions.items()}
    predictions = [found[index] for index in range(len(data.rows))]
    report = task.judge(data.rows, predictions, baseline)
    if count := sum(part.count for part in parts):
        report.metrics["loss"] = sum(part.loss for part in parts) / count
    return Evaluation(report, predictions)


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
