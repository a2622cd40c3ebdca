"""A run in progress: everything that the loop works with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import nn

from finetune_api.policy import CheckpointPolicy
from finetune_api.run import RunConfig
from finetune_api.training import Precision
from finetune_trainer.data.examples import sizes_of
from finetune_trainer.data.sampler import Sampler, micro_batches, row_seed
from finetune_trainer.energy import Meter
from finetune_trainer.record import Choices
from finetune_trainer.report.reporter import Reporter
from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.training.averaging import WeightAverage
from finetune_trainer.training.checkpoint import CheckpointStore
from finetune_trainer.training.embedding import tables_of
from finetune_trainer.training.evaluate import Encoded
from finetune_trainer.training.feeding import Feed, MicroBatch
from finetune_trainer.training.frozen_weights import Narrowed
from finetune_trainer.training.norms import RunningStatistics
from finetune_trainer.training.scaling import LossScale
from finetune_trainer.training.state import State
from finetune_trainer.training.stop import StopFlag
from finetune_trainer.training.unfreezing import Unfreezing
from finetune_trainer.training.world import World
from finetune_trainer.training.writer import Writer

Drawn = tuple[int, int]
"""A training row and the seed of its random numbers."""


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
    narrowed: Narrowed
    norms: RunningStatistics
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    unfreezing: Unfreezing
    train: Encoded
    validation: Encoded
    test: Encoded
    forgetting: Encoded | None
    sampler: Sampler
    store: CheckpointStore
    reporter: Reporter
    saves: SavePlan
    feed: Feed[list[MicroBatch]]
    stop: StopFlag = field(default_factory=StopFlag)
    state: State = field(default_factory=State)
    log_time: float = field(default_factory=time.monotonic)
    first_step: int = 0
    earlier_seconds: float = 0.0
    first_time: float = field(default_factory=time.monotonic)
    data_wait: float = 0.0
    meter: Meter = field(default_factory=lambda: Meter({}))
    earlier_energy: dict[str, float] | None = None
    writer: Writer = field(default_factory=Writer)

    def __post_init__(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        self.sizes = sizes_of(self.task, self.train.examples)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # Gradients that are shared with other processes have to come by autograd.
        alone = self.world.device.type == "cpu" and self.world.size == 1
        self.tables = tables_of(self.model) if alone else []
        self.scaler = LossScale(self.choices.precision == Precision.FP16, self.world.device)

    def cut(self, step: int) -> list[list[Drawn]]:
        """The rows of the step that follows `step` done ones, in micro-batches."""
        drawn, in_order = self._drawn(step), bool(self.norms.layers)
        if not in_order:
            drawn.sort()
        sizes, most = [self._size(*row) for row in drawn], self.choices.micro_batch_rows
        parts = micro_batches(range(len(drawn)), sizes, most, in_order, alike=not self.task.pads)
        return [[drawn[place] for place in part] for part in parts]

    def _drawn(self, step: int) -> list[Drawn]:
        epoch, seed = step // self.sampler.steps_per_epoch, self.config.training.seed
        rows = zip(self.sampler.indices(step), self.sampler.copies(step), strict=True)
        return [(index, row_seed(seed, epoch, index, copy)) for index, copy in rows]

    def _size(self, index: int, seed: int) -> int:
        """As it is drawn where rows of another size may not stand beside it; elsewhere about that size will do."""
        return self.sizes[index] if self.task.pads else self.task.size(self.train.drawn(index, seed))
