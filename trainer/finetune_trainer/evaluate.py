"""Evaluation over all processes: every row once, the loss as a mean over rows, no random number drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import nn

from finetune_trainer.data.rows import Row
from finetune_trainer.data.sampler import micro_batches
from finetune_trainer.stop import StopFlag
from finetune_trainer.tasks.base import Example, Report, TaskKind
from finetune_trainer.world import World

BATCH_ROWS = 64


@dataclass(frozen=True)
class Encoded:
    """The rows of one side and their examples, in the same order."""

    rows: Sequence[Row]
    examples: Sequence[Example]


class StopRequested(Exception):
    """All processes agreed, in the middle of an evaluation, that one was asked to stop."""


def evaluate(
    model: nn.Module, task: TaskKind, data: Encoded, world: World, stop: StopFlag, baseline: Sequence[Row] | None = None
) -> Report | None:
    """The report over `data`; None except in the main process. Raises StopRequested in all processes at once."""
    sizes = [task.size(example) for example in data.examples]
    batches = micro_batches(range(len(sizes)), sizes, BATCH_ROWS)
    indices: list[int] = []
    loss, predictions = 0.0, []
    model.eval()
    for start in range(0, len(batches), world.size):
        if world.any(stop.requested):
            model.train()
            raise StopRequested
        for batch in batches[start : start + world.size][world.rank : world.rank + 1]:
            summed, predicted = _forward(model, task, [data.examples[index] for index in batch], world.device)
            loss += summed
            indices += batch
            predictions.append(predicted)
    model.train()
    gathered = world.gather((indices, predictions, loss))
    return None if gathered is None else _judge(task, data, gathered, baseline)


@torch.no_grad()
def _forward(
    model: nn.Module, task: TaskKind, examples: Sequence[Example], device: torch.device
) -> tuple[float, numpy.ndarray]:
    batch = task.collate(examples)
    outputs = model(**{name: tensor.to(device) for name, tensor in batch.inputs.items()})
    loss = task.loss(outputs, batch.targets.to(device))
    return loss.item(), task.predict(outputs).cpu().numpy()


def _judge(task: TaskKind, data: Encoded, gathered: Sequence[Any], baseline: Sequence[Row] | None) -> Report:
    order = [index for indices, _, _ in gathered for index in indices]
    stacked = numpy.concatenate([part for _, parts, _ in gathered for part in parts])
    predictions = numpy.empty_like(stacked)
    predictions[order] = stacked
    report = task.judge(data.rows, predictions, baseline)
    report.metrics["loss"] = sum(loss for _, _, loss in gathered) / len(data.rows)
    return report


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
