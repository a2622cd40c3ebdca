"""The training loop, to be read aloud from top to bottom.

One step: all processes agree on what it divides by and on whether to stop or save first; then forward, backward, scale,
clip, update. Nothing is read back from the device between two log points.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import nn

from finetune_api.job import CheckpointPolicy, EvaluationStrategy
from finetune_api.run import RunConfig
from finetune_trainer.checkpoint import CheckpointStore
from finetune_trainer.data.sampler import Sampler, draw_seed, micro_batches, share
from finetune_trainer.errors import Preempted
from finetune_trainer.evaluate import Encoded, StopRequested, evaluate, prefixed
from finetune_trainer.optimizer import scale_gradients, set_learning_rate
from finetune_trainer.record import Choices
from finetune_trainer.report.reporter import Reporter
from finetune_trainer.report.snapshot import Activity
from finetune_trainer.schedule import learning_rate_factor
from finetune_trainer.state import State, seed_everything, write_state
from finetune_trainer.stop import StopFlag
from finetune_trainer.tasks.base import Batch, TaskKind
from finetune_trainer.world import World

BEST_METRIC = "validation_accuracy"


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
    """Everything that the loop works with. `model` is the plain module, `replica` what the gradients are shared by.

    `loss` is this process's part of the window's loss, on the device.
    """

    config: RunConfig
    choices: Choices
    world: World
    task: TaskKind
    accelerator: Accelerator
    model: nn.Module
    replica: nn.Module
    optimizer: torch.optim.AdamW
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


@dataclass(frozen=True)
class Agreed:
    """What all processes know before a step: the loss's denominator, tokens, and whether to stop or save first."""

    count: float
    tokens: float
    stop: bool
    save: bool


def train(run: Run) -> None:
    """Train up to the last step. Raises Preempted, after saving, as soon as any process was asked to stop."""
    run.reporter.doing(Activity.TRAINING)
    while True:
        if _evaluation_is_due(run):
            _validate(run)
        if run.state.step == run.choices.total_steps:
            break
        batches = _next_batches(run)
        agreed = _agree(run, batches)
        if agreed.stop:
            save_and_leave(run)
        if agreed.save:
            save(run)
        norm = _optimize(run, batches, agreed.count)
        _advance(run, agreed)
        if run.state.step % run.choices.log_steps == 0 or run.state.step == run.choices.total_steps:
            _log(run, norm)
    save(run)


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's rows, and the seed of its random numbers."""

    batch: Batch
    seed: int


def _next_batches(run: Run) -> list[MicroBatch]:
    """This process's micro-batches of the next step, the longest first; empty if there are too few for it."""
    started = time.monotonic()
    cut = micro_batches(run.sampler.indices(run.state.step), run.sizes, run.choices.micro_batch_rows)
    own = share(cut, run.world.rank, run.world.size)
    batches = [
        MicroBatch(
            run.task.collate([run.train.examples[index] for index in rows]),
            draw_seed(run.config.training.seed, run.state.step, number),
        )
        for number, rows in own
    ]
    run.data_wait += time.monotonic() - started
    return batches


def _agree(run: Run, batches: Sequence[MicroBatch]) -> Agreed:
    count = sum(part.batch.count for part in batches)
    tokens = sum(part.batch.tokens for part in batches)
    save_due = run.world.is_main and run.saves.is_due(run.state.step, time.monotonic())
    totals = run.world.sum([count, tokens, float(run.stop.requested), float(save_due)])
    return Agreed(totals[0], totals[1], totals[2] > 0, totals[3] > 0)


def _optimize(run: Run, batches: Sequence[MicroBatch], count: float) -> torch.Tensor:
    """One optimizer step over all processes; returns the gradient's norm before clipping, on the device."""
    for part in batches[:-1]:
        with run.accelerator.no_sync(run.replica):
            _backward(run, part)
    if batches:
        _backward(run, batches[-1])
    else:
        _take_part(run)
    # DDP has divided the sum by the number of processes.
    scale_gradients(run.parameters, run.world.size / count)
    norm = nn.utils.clip_grad_norm_(run.parameters, run.config.training.max_grad_norm)
    set_learning_rate(run.optimizer, learning_rate(run))
    run.optimizer.step()
    run.optimizer.zero_grad()
    return norm


def _backward(run: Run, part: MicroBatch, weight: float = 1.0) -> None:
    seed_everything(part.seed)
    batch, device = part.batch, run.world.device
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    outputs = run.replica(**inputs)
    loss = run.task.loss(outputs, batch.targets.to(device, non_blocking=True)) * weight
    run.accelerator.backward(loss)
    run.loss += loss.detach()


def _take_part(run: Run) -> None:
    """Backward with weight zero: a process without rows still has to answer when gradients are summed."""
    _backward(run, MicroBatch(run.task.collate(run.train.examples[:1]), seed=0), weight=0.0)


def learning_rate(run: Run) -> float:
    """The learning rate of the next step."""
    factor = learning_rate_factor(
        run.state.step, run.choices.total_steps, run.choices.warmup_steps, run.config.training.lr_scheduler_type
    )
    return run.config.training.learning_rate * factor


def _advance(run: Run, agreed: Agreed) -> None:
    rate = learning_rate(run)
    state = run.state
    state.step += 1
    state.samples += int(agreed.count)
    state.tokens += int(agreed.tokens)
    state.window_count += agreed.count
    state.window_tokens += agreed.tokens
    run.reporter.update(
        step=state.step,
        epoch=run.sampler.epoch(state.step),
        samples=state.samples,
        tokens=state.tokens,
        learning_rate=rate,
        data_wait_seconds=run.data_wait,
        eta_seconds=_seconds_left(run),
    )


def _seconds_left(run: Run) -> float:
    """By the mean pace of this attempt, evaluations and saves included."""
    done = run.state.step - run.first_step
    return (time.monotonic() - run.first_time) / done * (run.choices.total_steps - run.state.step)


def _log(run: Run, norm: torch.Tensor) -> None:
    """Read the window's loss back, the mean over all processes, and open a new window."""
    now, state, norm_value = time.monotonic(), run.state, norm.item()
    _collect_loss(run)
    loss = state.window_loss / state.window_count
    pace = state.window_tokens / max(now - run.log_time, 1e-6)
    run.reporter.update(loss=loss, loss_step=run.state.step, grad_norm=norm_value, tokens_per_second=pace)
    values = {"loss": loss, "learning_rate": run.reporter.now.learning_rate or 0.0, "grad_norm": norm_value}
    run.reporter.record({**values, "tokens_per_second": round(pace)})
    state.window_loss = state.window_count = state.window_tokens = 0.0
    run.log_time = now


def _collect_loss(run: Run) -> None:
    """Move what all processes summed up on their devices into the state."""
    run.state.window_loss += run.world.sum([run.loss.item()])[0]
    run.loss.zero_()


def _evaluation_is_due(run: Run) -> bool:
    step, evaluation = run.state.step, run.config.evaluation
    if evaluation.strategy is EvaluationStrategy.NEVER or step in (0, run.state.evaluated_step):
        return False
    every = evaluation.steps or run.sampler.steps_per_epoch
    return step % every == 0 or step == run.choices.total_steps


def _validate(run: Run) -> None:
    run.reporter.doing(Activity.EVALUATING)
    try:
        report = evaluate(run.model, run.task, run.validation, run.world, run.stop)
    except StopRequested:
        save_and_leave(run)
    run.state.evaluated_step = run.state.step
    if report is not None:
        metrics = prefixed("validation", report.metrics)
        _keep_best(run, metrics)
        run.state.metrics = metrics
        run.reporter.update(metrics=metrics)
        run.reporter.record(metrics)
    run.reporter.doing(Activity.TRAINING)


def _keep_best(run: Run, metrics: dict[str, float]) -> None:
    best = run.state.best
    value = metrics[BEST_METRIC]
    if best is None or value > best["value"]:
        run.state.best = {"metric": BEST_METRIC, "value": value, "step": run.state.step}


def save(run: Run) -> None:
    """Publish a checkpoint of this step; every process takes part."""
    run.reporter.doing(Activity.SAVING)
    state = run.state
    state.seconds = run.earlier_seconds + time.monotonic() - run.first_time
    _collect_loss(run)
    if run.world.is_main:
        state.log_bytes = run.reporter.log_bytes
        path = run.store.publish(state.step, lambda folder: write_state(folder, state, run.model, run.optimizer))
        uri = f"{run.config.checkpoint_uri or run.config.checkpoint_folder}/{path.name}"
        run.reporter.update(checkpoint_step=state.step, checkpoint_uri=uri, checkpoint_time=time.time())
    run.saves.saved(state.step, time.monotonic())
    run.reporter.doing(Activity.TRAINING)


def save_and_leave(run: Run) -> NoReturn:
    """Save what there is, and end this attempt. Raises Preempted."""
    if run.state.step == 0:
        raise Preempted("Preempted", "asked to stop before the first step", "run it again to start")
    save(run)
    message = f"asked to stop; saved at step {run.state.step} of {run.choices.total_steps}"
    raise Preempted("Preempted", message, "run it again to go on from there")
