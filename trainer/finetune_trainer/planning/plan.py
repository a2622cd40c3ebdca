"""The plan of a run: rows, steps, what each process needs, what there is, and what to change if that is too little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from finetune_api.run import RunConfig
from finetune_api.training import Precision, Use
from finetune_trainer.data.folds import of_fold
from finetune_trainer.data.prepare import Data
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.planning.footprint import (
    CPU_LIBRARIES,
    GPU_LIBRARIES,
    Footprint,
    Need,
    Room,
    Sharing,
    Step,
    footprint,
    need_of,
    saved_bytes,
)
from finetune_trainer.planning.remedies import Change, as_options, changed, levers, remedy
from finetune_trainer.planning.rows import Lengths, measured
from finetune_trainer.planning.shapes import no_values, shaped_model
from finetune_trainer.planning.simulation import Setting, simulate
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.training import build
from finetune_trainer.training.feeding import JOINED_TOKENS
from finetune_trainer.training.frozen_weights import held_bytes, narrow_type
from finetune_trainer.training.norms import GROUP_ROWS, RunningStatistics
from finetune_trainer.training.padding import SIDE_BY_SIDE, obstacle
from finetune_trainer.training.precision import choose_precision
from finetune_trainer.training.recomputing import SHORT, recomputes
from finetune_trainer.training.schedule import total_steps

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Made:
    """What the trainer would decide by itself, or has decided."""

    precision: str
    rows: int
    recomputes: bool


@dataclass(frozen=True)
class Estimate:
    """What a run needs: of one process, and of GPU and node."""

    made: Made
    step: Step
    own: Footprint
    need: Need


class Planner:
    """Estimates of one run and of others that differ in a few fields."""

    def __init__(
        self, config: RunConfig, data: Data, model: ModelFolder, room: Room, decided: Made | None = None
    ) -> None:
        self.config = config
        self.data = of_fold(data, config)
        self.model = model
        self.room = room
        self.decided = decided
        self.on_gpu = config.resources.gpus_per_node > 0
        self.task = self._task(config)
        self.lengths: Lengths = measured(self.task, self.data.sides[Side.TRAIN])
        self._steps: dict[Any, Step] = {}

    def _task(self, config: RunConfig) -> TaskKind:
        return TASKS[config.task].load(self.model, self.data.labels, config)

    @property
    def sharing(self) -> Sharing:
        return self._sharing(self.config)

    def _sharing(self, config: RunConfig) -> Sharing:
        resources = config.resources
        asked = resources.processes_per_node
        own = max(1, resources.gpus_per_node) if asked == "auto" else asked
        return Sharing(own * resources.nodes, resources.nodes, config.parallelism.strategy == "fsdp")

    @cached_property
    def sampler(self) -> Sampler:
        sampler: Sampler = build.sampler_of(self.data, self.config)
        return sampler

    @cached_property
    def _fixed_rows(self) -> int | None:
        """Rows that batch norms take together, whatever the manifest says."""
        norms = self._shaped(self.config, lambda module: RunningStatistics(module))
        return GROUP_ROWS if norms.layers else None

    def _shaped(self, config: RunConfig, look: Callable[[nn.Module], Any]) -> Any:
        with no_values():
            return look(shaped_model(self._task(config), config, recomputes=False))

    def made(self, config: RunConfig) -> Made:
        """What the trainer would choose for `config`."""
        training = config.training
        precision = training.precision
        if precision is Precision.AUTO:
            precision = Precision.BF16 if self.on_gpu else self._precision_on_a_cpu(config)
        return Made(precision.value, self._rows(config), self._recomputes(config, precision))

    def _precision_on_a_cpu(self, config: RunConfig) -> Precision:
        found: Precision = self._shaped(config, lambda module: choose_precision(Precision.AUTO, module, CPU))
        return found

    def _rows(self, config: RunConfig) -> int:
        if self._fixed_rows is not None:
            return min(self._fixed_rows, config.training.train_batch_size)
        sharing = self._sharing(config)
        if self.decided is not None and config.training.micro_batch_size is None:
            return self.decided.rows
        share = -(-config.training.train_batch_size // sharing.processes)
        wanted = config.training.micro_batch_size or (share if self.on_gpu else self.task.cpu_rows)
        return min(wanted, share)

    def _recomputes(self, config: RunConfig, precision: Precision) -> bool:
        wanted = config.training.gradient_checkpointing
        if wanted is not Use.AUTO:
            return self._able(config, wanted)
        if self.decided is not None:
            return self.decided.recomputes
        short = self.on_gpu and self.room.device is not None and self._is_short(config, precision)
        return short and self._able(config, Use.ALWAYS)

    def _able(self, config: RunConfig, wanted: Use) -> bool:
        able: bool = self._shaped(config, lambda module: recomputes(wanted, module, 0, CPU))
        return able

    def _is_short(self, config: RunConfig, precision: Precision) -> bool:
        kind = narrow_type(config.method.type, precision)
        held: int = self._shaped(config, lambda module: held_bytes(module, kind))
        return held > SHORT * (self.room.device or 0)

    def estimate(self, config: RunConfig) -> Estimate:
        """What `config` would need."""
        made, sharing, training = self.made(config), self._sharing(config), config.training
        step = self._step(config, made)
        libraries = GPU_LIBRARIES if self.on_gpu else CPU_LIBRARIES
        own = footprint(step, sharing, training.optimizer, training.ema is not None, libraries)
        return Estimate(made, step, own, need_of(own, sharing, self.on_gpu))

    def _step(self, config: RunConfig, made: Made) -> Step:
        at_once, several = self._at_once(config, made)
        key = (made, at_once, several, config.method.type)
        if key not in self._steps:
            task = self._task(config)
            setting = Setting(config, made.precision, made.recomputes, self.on_gpu, several)
            together = min(task.evaluation_rows, config.training.micro_batch_size or task.evaluation_rows)
            evaluated = task.collate(self.lengths.batch(min(together, self.lengths.rows)))
            self._steps[key] = simulate(task, setting, task.collate(self.lengths.batch(at_once)), evaluated)
        return self._steps[key]

    def _at_once(self, config: RunConfig, made: Made) -> tuple[int, bool]:
        """How many of the longest rows take as much as what is computed at once; and whether a step has more of it.

        On a CPU texts without padding are joined, up to so many tokens.
        """
        processes, longest = self._sharing(config).processes, max(1, self.lengths.most)
        batch = config.training.train_batch_size
        share = -(-batch // processes)
        if not self._unpadded(config):
            return min(made.rows, self.sampler.epoch_rows), made.rows < share
        if not self._joins(config):
            return -(-self.lengths.most_in_a_step(self.sampler, made.rows) // longest), made.rows < share
        tokens = -(-self.lengths.most_in_a_step(self.sampler, batch) // processes)
        room = max(JOINED_TOKENS, made.rows * longest)
        return -(-min(tokens, room) // longest), tokens > room

    def _joins(self, config: RunConfig) -> bool:
        """Whether parts of a step are computed at once."""
        return self._unpadded(config) and config.training.micro_batch_size is None and config.task in SIDE_BY_SIDE

    def _unpadded(self, config: RunConfig) -> bool:
        """Whether texts are computed without padding; counted on a CPU alone."""
        never = config.training.padding_free is Use.NEVER
        return not self.on_gpu and not never and obstacle(config, self.model) is None

    def fits(self, change: Change) -> bool:
        """Whether the run would fit with `change`; not if that makes a run that cannot be."""
        try:
            return self.estimate(changed(self.config, change)).need.fits(self.room)
        except ConfigError:
            return False

    def remedy(self) -> Change | None:
        """What to change so that it fits."""
        made = self.made(self.config)
        able = made.recomputes
        if not able:
            try:
                able = not self._able(self.config, Use.ALWAYS)
            except ConfigError:
                able = True
        rows = 1 if self._fixed_rows is not None else made.rows * (2 if self._joins(self.config) else 1)
        options = levers(self.config, self.sharing.processes, made.precision, self.on_gpu, able)
        return remedy(rows, options, self.fits)


def plan(planner: Planner) -> dict[str, Any]:
    """The whole plan as the document that `finetune plan` shows."""
    found, config, room = planner.estimate(planner.config), planner.config, planner.room
    fits = found.need.fits(room)
    change = None if fits else planner.remedy()
    return {
        "rows": planner.lengths.rows,
        "lookedAt": planner.lengths.looked_at,
        "lengths": {"mean": round(planner.lengths.mean, 1), "longest": planner.lengths.most},
        "steps": _steps(planner),
        "settings": settings(config, found.made, planner.sharing),
        "parameters": {"all": found.step.parameters, "trained": sum(map(_count, found.step.trained))},
        "process": found.own.to_dict(),
        "strategies": _strategies(planner),
        "node": {"processes": planner.sharing.per_node, "host": found.need.host, "device": found.need.device},
        "checkpoint": saved_bytes(found.step, config.training.optimizer, config.training.ema is not None),
        "room": {"host": room.host, "device": room.device, "toldBy": dict(room.told_by or {})},
        "fits": fits,
        "known": (room.device if found.need.device is not None else room.host) is not None,
        "suggestion": None if change is None else as_options(change),
    }


def _steps(planner: Planner) -> dict[str, Any]:
    sampler, training = planner.sampler, planner.config.training
    total = total_steps(training, sampler.epoch_rows)
    tokens = planner.lengths.mean * min(training.train_batch_size, sampler.epoch_rows)
    return {
        "total": total,
        "epoch": sampler.steps_per_epoch,
        "rows": training.train_batch_size,
        "tokens": round(tokens),
    }


def settings(config: RunConfig, made: Made, sharing: Sharing) -> dict[str, Any]:
    """What memory depends on, as it is now."""
    return {
        "method": config.method.type.value,
        "precision": made.precision,
        "optimizer": config.training.optimizer.value,
        "microBatchSize": made.rows,
        "gradientCheckpointing": made.recomputes,
        "processes": sharing.processes,
        "strategy": "fsdp" if sharing.sharded else "ddp",
    }


def _strategies(planner: Planner) -> dict[str, dict[str, int]]:
    """One process, by how several would share the model; empty for a single one."""
    found, sharing, training = planner.estimate(planner.config), planner.sharing, planner.config.training
    if sharing.processes == 1:
        return {}
    libraries, averaged = found.own.libraries, training.ema is not None
    return {
        name: footprint(
            found.step, replace(sharing, sharded=sharded), training.optimizer, averaged, libraries
        ).to_dict()
        for name, sharded in (("ddp", False), ("fsdp", True))
    }


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
