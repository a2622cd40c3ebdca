"""Building a run: rows to examples, model, method, processes, and the choices that were left to us."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import nn
from transformers import PreTrainedModel

from finetune_api.run import RunConfig
from finetune_api.training import Training
from finetune_trainer import files, heartbeat
from finetune_trainer.data.folds import of_fold
from finetune_trainer.data.kept import open_data
from finetune_trainer.data.prepare import Data, load_data
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.data.split import Side
from finetune_trainer.encoding import encode_side
from finetune_trainer.environment import environment
from finetune_trainer.errors import ConfigError
from finetune_trainer.methods import TrainingMethod
from finetune_trainer.record import (
    Choices,
    Facts,
    fingerprint,
    installed_versions,
    kept_choices,
    read_record,
    record_of,
)
from finetune_trainer.report.reporter import Reporter
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import Examples, TaskKind
from finetune_trainer.training.aiming import aim
from finetune_trainer.training.averaging import WeightAverage
from finetune_trainer.training.checkpoint import CheckpointStore, owner_of
from finetune_trainer.training.compiling import compile_layers, compiles
from finetune_trainer.training.dropout import draw_faster
from finetune_trainer.training.evaluate import Encoded, fixed_draws
from finetune_trainer.training.features import keep_features
from finetune_trainer.training.feeding import Feed, workers_of
from finetune_trainer.training.forgetting import prepare_forgetting
from finetune_trainer.training.frozen_weights import held_bytes, narrow, narrow_type
from finetune_trainer.training.kernels import apply_kernels, uses_kernels
from finetune_trainer.training.norms import GROUP_ROWS, RunningStatistics
from finetune_trainer.training.optimizer import build_optimizer
from finetune_trainer.training.padding_free import remove_padding, removes_padding
from finetune_trainer.training.precision import choose_precision, compute_in
from finetune_trainer.training.recomputing import recompute, recomputes
from finetune_trainer.training.run import Run, SavePlan
from finetune_trainer.training.schedule import log_interval, total_steps, unfreezing_interval, warmup_steps
from finetune_trainer.training.sharded import gathered
from finetune_trainer.training.sharing import adds_up_whole, asked_for, choose_strategy, open_accelerator, share
from finetune_trainer.training.state import seed_everything
from finetune_trainer.training.training_rows import TrainingRows
from finetune_trainer.training.unfreezing import Unfreezing
from finetune_trainer.training.world import World

log = logging.getLogger(__name__)


def build_run(
    config: RunConfig, facts: Facts, method: TrainingMethod, world: World, reporter: Reporter, threads: int
) -> Run:
    """Everything that the loop works with, at step 0."""
    training = config.training
    data = of_fold(load_data(config) if facts.rows is None else open_data(facts.rows), config)
    task = _task(config, facts, data)
    examples = {side: encode_side(task, data.sides[side], side, facts) for side in Side}
    sampler = sampler_of(data, config)

    model, new = load(task, training.seed)
    names = {part: name for name, part in model.named_modules()}
    module = method.prepare(model, new)
    aim(module, task.token_loss)
    norms = RunningStatistics(module)
    _check_groups(norms, sampler)
    choices = _choose(config, facts, world, sampler, norms, threads, module)
    _make_as_chosen(module, config, choices, world)
    narrowed = narrow(module, names, narrow_type(config.method.type, choices.precision))
    accelerator = open_accelerator(world)
    replica = share(module, accelerator, choices, world)
    with gathered(module):
        encoded = _encoded(config, task, data, module, examples, world)
        forgetting = prepare_forgetting(task, module, new, examples[Side.TRAIN], world)

    module.train()
    reporter.update(total_steps=choices.total_steps)
    return Run(
        config=config,
        choices=choices,
        world=world,
        task=task,
        accelerator=accelerator,
        model=module,
        replica=replica,
        narrowed=narrowed,
        norms=norms,
        optimizer=build_optimizer(module, training),
        average=WeightAverage(module, training.ema),
        unfreezing=_unfreezing(module, training, sampler, choices),
        forgetting=forgetting,
        train=encoded[Side.TRAIN],
        validation=encoded[Side.VALIDATION],
        test=encoded[Side.TEST],
        sampler=sampler,
        store=_store(config, facts),
        reporter=reporter,
        saves=SavePlan(config.checkpoint, 0, time.monotonic()),
        feed=Feed(workers_of(world.device, threads)),
    )


def _task(config: RunConfig, facts: Facts, data: Data) -> TaskKind:
    task = TASKS[config.task].load(facts.folder, data.labels, config)
    task.class_weights = data.balance.class_weights
    return task


def load(task: TaskKind, seed: int) -> tuple[PreTrainedModel, Sequence[str]]:
    """The model as its file has it, and the names of what the file does not have: the same each time."""
    seed_everything(seed)
    heartbeat.beat()
    loaded = task.load_model()
    heartbeat.beat()
    return loaded


def _make_as_chosen(module: nn.Module, config: RunConfig, choices: Choices, world: World) -> None:
    """Let the model compute in the way that was chosen."""
    if choices.kernels:
        apply_kernels(module)
    if choices.padding_free:
        remove_padding(module)
    if choices.compiled:
        compile_layers(module, config.training.compile, config.cache_folder)
    if choices.recompute:
        recompute(module)
    if world.device.type == "cpu" and not choices.padding_free and not choices.compiled:
        draw_faster(module)
    compute_in(module, choices.precision, world.device)


def _unfreezing(model: nn.Module, training: Training, sampler: Sampler, choices: Choices) -> Unfreezing:
    wanted = training.gradual_unfreezing
    interval = None if wanted is None else unfreezing_interval(wanted, sampler.steps_per_epoch)
    return Unfreezing(model, interval, choices.total_steps)


def _store(config: RunConfig, facts: Facts) -> CheckpointStore:
    folder = Path(config.checkpoint_folder)
    return CheckpointStore(folder, owner_of(config.job), fingerprint(config, facts), config.checkpoint.keep_last)


def _encoded(
    config: RunConfig, task: TaskKind, data: Data, module: nn.Module, examples: Examples, world: World
) -> dict[Side, Encoded]:
    """Each side as the model is given it; of a frozen backbone, with what that says of its rows."""
    prepared = task.prepare(module.eval(), examples, world)
    return keep_features(config, task, module, _with_rows(task, data, prepared, config.training.seed), world)


def _with_rows(task: TaskKind, data: Data, examples: Examples, seed: int) -> dict[Side, Encoded]:
    """Each side's rows and examples; those that are only evaluated always draw the same random numbers."""
    held_out: dict[Side, Encoded] = {
        side: Encoded(data.sides[side], fixed_draws(examples[side], seed, side.value))
        for side in (Side.VALIDATION, Side.TEST)
    }
    return {Side.TRAIN: TrainingRows(data.sides[Side.TRAIN], examples[Side.TRAIN], task), **held_out}


def sampler_of(data: Data, config: RunConfig) -> Sampler:
    rows, training, balance = data.sides[Side.TRAIN], config.training, data.balance
    weights = rows.weights if balance.row_weights is None else balance.row_weights
    return Sampler(len(rows), training.train_batch_size, training.seed, weights, balance.groups)


def _check_groups(norms: RunningStatistics, sampler: Sampler) -> None:
    """A batch norm cannot normalize a single row."""
    if norms.layers and 1 in (sampler.batch, sampler.epoch_rows % sampler.batch):
        message = f"spec.training.trainBatchSize: with {sampler.batch} the last step of an epoch has a single row"
        hint = "the model has batch norms, which need two rows; use another number"
        raise ConfigError("BatchTooSmall", message, hint)


def _around(world: World) -> dict[str, Any]:
    machine = environment(uses_gpu=world.device.type == "cuda")
    return {"id": uuid4().hex[:16], "versions": installed_versions(), "environment": machine}


def _choose(
    config: RunConfig,
    facts: Facts,
    world: World,
    sampler: Sampler,
    norms: RunningStatistics,
    threads: int,
    model: nn.Module,
) -> Choices:
    """The first attempt's choices, or new ones, kept in run.json from now on. The main process decides."""
    choices = None
    if world.is_main:
        folder = Path(config.folder)
        choices = kept_choices(read_record(folder))
        if choices is None:
            choices = _new_choices(config, world, sampler, norms, threads, model)
            choices = _with_faster_layers(choices, config, facts, model, world)
            files.write_json(folder / files.RECORD, record_of(config, facts, choices, _around(world)))
        else:
            _warn_if_inexact(choices, world, threads)
            choices = asked_for(_shared_by_more(choices, config, norms, world), config, model)
    received: Choices = world.broadcast(choices)
    return received


def _new_choices(
    config: RunConfig, world: World, sampler: Sampler, norms: RunningStatistics, threads: int, model: nn.Module
) -> Choices:
    training = config.training
    total = total_steps(training, sampler.epoch_rows)
    precision = choose_precision(training.precision, model, world.device).value
    held = held_bytes(model, narrow_type(config.method.type, precision))
    return Choices(
        precision=precision,
        processes=world.size,
        threads=threads,
        micro_batch_rows=_micro_batch_rows(config, norms, world),
        log_steps=log_interval(total),
        total_steps=total,
        warmup_steps=warmup_steps(training, total),
        recompute=recomputes(training.gradient_checkpointing, model, held, world.device),
        strategy=choose_strategy(config, model, held, world),
        adds_up_whole=adds_up_whole(model, world.device),
    )


def _with_faster_layers(choices: Choices, config: RunConfig, facts: Facts, model: nn.Module, world: World) -> Choices:
    """With what computes layers faster; layers that are compiled are as their author wrote them."""
    unpadded = removes_padding(config, facts.folder, model, world.device)
    kernels, steps = uses_kernels(config, facts.folder, world.device), choices.total_steps
    compiled = compiles(config.training, model, world.device, steps, choices.strategy, unpadded or kernels)
    return replace(choices, padding_free=unpadded and not compiled, kernels=kernels, compiled=compiled)


def _micro_batch_rows(config: RunConfig, norms: RunningStatistics, world: World) -> int:
    """The same for any number of processes on the CPU, as long as each has that many rows of a step.

    The rows that a batch norm takes together are part of what is computed, so they depend on nothing else.
    """
    training, batch = config.training, config.training.train_batch_size
    if norms.layers:
        return min(GROUP_ROWS, batch)
    share = -(-batch // world.size)
    if training.micro_batch_size is not None:
        return min(training.micro_batch_size, share)
    return min(TASKS[config.task].cpu_rows, share) if world.device.type == "cpu" else share


def _shared_by_more(kept: Choices, config: RunConfig, norms: RunningStatistics, world: World) -> Choices:
    """Smaller micro-batches where there are more processes than before: otherwise some would have nothing to do."""
    rows = _micro_batch_rows(config, norms, world)
    if world.size <= kept.processes or rows >= kept.micro_batch_rows:
        return kept
    message = "micro-batch: %d rows before, %d now, so that each process has some; dropout draws other numbers"
    log.warning(message, kept.micro_batch_rows, rows)
    return replace(kept, micro_batch_rows=rows)


def _warn_if_inexact(kept: Choices, world: World, threads: int) -> None:
    for name, value in {"processes": world.size, "threads": threads}.items():
        before = getattr(kept, name)
        if before != value:
            log.warning("%s: %d before, %d now; the result is as good, but not to the last bit", name, before, value)
