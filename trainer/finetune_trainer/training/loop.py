"""The training loop, to be read aloud from top to bottom.

One step: all processes agree on what it divides by and on whether to stop or save first; then forward, backward, scale,
clip, update. Nothing is read back from the device between two log points.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from finetune_api.evaluation import EvaluationStrategy
from finetune_trainer import heartbeat
from finetune_trainer.errors import ConfigError, Preempted
from finetune_trainer.report.snapshot import Activity
from finetune_trainer.training.best import judge_evaluation
from finetune_trainer.training.evaluate import evaluate, prefixed
from finetune_trainer.training.feeding import MicroBatch, next_batches
from finetune_trainer.training.forgetting import BEFORE, measure
from finetune_trainer.training.run import Run
from finetune_trainer.training.saving import collect_loss, save, save_last, settle
from finetune_trainer.training.stop import StopRequested
from finetune_trainer.training.updating import learning_rate, optimize
from finetune_trainer.training.warming import warm_up


@dataclass(frozen=True)
class Agreed:
    """What all processes know before a step: the loss's denominator, tokens, and whether to stop or save first."""

    count: float
    tokens: float
    stop: bool
    save: bool


def train(run: Run) -> None:
    """Train up to the last step. Raises Preempted, after saving, as soon as any process was asked to stop."""
    if run.forgetting is not None and run.state.step == 0:
        _measure_before(run)
    run.reporter.doing(Activity.TRAINING)
    warm_up(run)
    while True:
        if _evaluation_is_due(run):
            _validate(run)
        settle(run)
        if run.state.stopped_early or run.state.step == run.choices.total_steps:
            break
        parts = next_batches(run)
        agreed = agree(run, parts)
        if agreed.stop:
            save_and_leave(run)
        if agreed.save:
            save(run)
        norm = optimize(run, parts, agreed.count)
        _advance(run, agreed)
        if run.state.step % run.choices.log_steps == 0 or run.state.step == run.choices.total_steps:
            _log(run, norm)
    if run.state.stopped_early:
        run.reporter.update(stopped_early=True, eta_seconds=0.0)
    save_last(run)


def _measure_before(run: Run) -> None:
    """What the model can do of what it may forget; kept in every checkpoint."""
    run.reporter.doing(Activity.EVALUATING)
    try:
        run.state.before = measure(run, BEFORE)
    except StopRequested:
        save_and_leave(run)


def agree(run: Run, parts: Sequence[MicroBatch]) -> Agreed:
    """What all processes together have to do before the next step."""
    count = sum(part.batch.count for part in parts)
    tokens = sum(part.batch.tokens for part in parts)
    save_due = run.world.is_main and run.saves.is_due(run.state.step, time.monotonic())
    totals = run.world.sum([count, tokens, float(run.stop.requested), float(save_due)])
    return Agreed(totals[0], totals[1], totals[2] > 0, totals[3] > 0)


def _advance(run: Run, agreed: Agreed) -> None:
    rate = learning_rate(run)
    state = run.state
    state.samples += len(run.sampler.indices(state.step))
    state.step += 1
    heartbeat.beat(state.step)
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
    collect_loss(run)
    loss = state.window_loss / (state.window_count or 1.0)
    _check_finite(loss, norm_value, state.step)
    pace = state.window_tokens / max(now - run.log_time, 1e-6)
    run.reporter.update(loss=loss, loss_step=run.state.step, grad_norm=norm_value, tokens_per_second=pace)
    values = {"loss": loss, "learning_rate": run.reporter.now.learning_rate or 0.0, "grad_norm": norm_value}
    run.reporter.record({**values, **run.scaler.report(), "tokens_per_second": round(pace)})
    state.window_loss = state.window_count = state.window_tokens = 0.0
    run.log_time = now


def _check_finite(loss: float, norm: float, step: int) -> None:
    """Raise ConfigError for a run that cannot come to anything: another attempt would diverge, too."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        message = f"the loss or its gradient was not a finite number up to step {step}"
        hint = "lower spec.training.learningRate, warm up longer, and look for extreme values in the rows"
        raise ConfigError("Diverged", message, hint)


def _evaluation_is_due(run: Run) -> bool:
    step, evaluation = run.state.step, run.config.evaluation
    if evaluation.strategy is EvaluationStrategy.NEVER or step in (0, run.state.evaluated_step):
        return False
    every = evaluation.steps or run.sampler.steps_per_epoch
    return step % every == 0 or step == run.choices.total_steps


def _validate(run: Run) -> None:
    run.reporter.doing(Activity.EVALUATING)
    run.feed.settle()
    try:
        with run.average.in_place():
            evaluation = evaluate(run.model, run.task, run.validation, run.world, run.stop)
            run.state.evaluated_step = run.state.step
            judge_evaluation(run, None if evaluation is None else evaluation.report.metrics)
    except StopRequested:
        save_and_leave(run)
    if evaluation is not None:
        metrics = prefixed("validation", evaluation.report.metrics)
        run.state.metrics = metrics
        run.reporter.update(metrics=metrics)
        run.reporter.record(metrics)
    run.reporter.doing(Activity.TRAINING)


def save_and_leave(run: Run) -> NoReturn:
    """Save what there is, and end this attempt. Raises Preempted."""
    if run.state.step == 0:
        raise Preempted("Preempted", "asked to stop before the first step", "run it again to start")
    save_last(run)
    leave(run)


def leave(run: Run) -> NoReturn:
    """End this attempt, whose last step is saved. Raises Preempted."""
    message = f"asked to stop; saved at step {run.state.step} of {run.choices.total_steps}"
    raise Preempted("Preempted", message, "run it again to go on from there")
