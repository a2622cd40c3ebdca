"""A run in progress: everything that the loop works with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import nn

from finetune_api.policy import CheckpointPolicy
from finetune_api.run import RunConfig
from finetune_trainer.checkpoint import CheckpointStore
from finetune_trainer.data.sampler import Sampler, micro_batches
from finetune_trainer.evaluate import Encoded
from finetune_trainer.norms import RunningStatistics
from finetune_trainer.record import Choices
from finetune_trainer.report.reporter import Reporter
from finetune_trainer.state import State
from finetune_trainer.stop import StopFlag
from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.world import World


@dataclass
class SavePlan:
    """When the next checkpoint is due; the main process's clock decides for all."""

    policy: CheckpointPolicy
    step: int
    time: float

    def is_due(self, step: int, now: float) -> bool:
        if step == self.step:
            return False
        every_steps, every_seconds = self.policy.every_steps, self.policy.every_seconds
        by_step = every_steps is not None and step % every_steps == 0
        return by_step or (every_seconds is not None and now - self.time >= every_seconds)

    def saved(self, step: int, now: float) -> None:
        self.step, self.time = step, now


@dataclass
class Run:
    """`model` is the plain module, `replica` what the gradients are shared by.

    `loss` is this process's part of the window's loss, on the device.
    """

    config: RunConfig
    choices: Choices
    world: World
    task: TaskKind
    accelerator: Accelerator
    model: nn.Module
    replica: nn.Module
    norms: RunningStatistics
    optimizer: torch.optim.Optimizer
    train: Encoded
    validation: Encoded
    test: Encoded
    sampler: Sampler
    store: CheckpointStore
    reporter: Reporter
    stop: StopFlag
    state: State
    saves: SavePlan
    log_time: float = field(default_factory=time.monotonic)
    first_step: int = 0
    earlier_seconds: float = 0.0
    first_time: float = field(default_factory=time.monotonic)
    data_wait: float = 0.0

    def __post_init__(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        self.sizes = [self.task.size(example) for example in self.train.examples]
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def cut(self, step: int) -> list[list[int]]:
        """The rows of the step that follows `step` done ones, in micro-batches."""
        return micro_batches(
            self.sampler.indices(step),
            self.sizes,
            self.choices.micro_batch_rows,
            in_order=bool(self.norms.layers),
            alike=not self.task.pads,
        )
