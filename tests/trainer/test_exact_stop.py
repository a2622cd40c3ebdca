"""SIGTERM is honoured within one optimizer step whatever the program does; a grace that is too short harms nothing.

While rows are read and encoded: test_encoding.py.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.progress import ExitCode, Result
from support.killing import (
    Moment,
    at_steps,
    in_evaluation,
    in_features,
    in_folder,
    in_preparation,
    in_save,
    logged_step,
    next_attempt,
    on_a_slower_disk,
    resumed_step,
    start,
    wait_for,
    what_is_left,
)
from support.methods import with_method
from support.models import sentences, write_rows
from support.runs import ARun, Ended, WarmTrainer, a_run

pytestmark = pytest.mark.torch
SECONDS = 10.0
"""How long it may take on a busy machine; docs/exactness.md has what it took once."""
LONG = 6000
"""Rows whose evaluation, encoding or features take much longer than a step."""
FIRST_STEPS = at_steps("in training", 2, 6)


def stopped(trainer: WarmTrainer, run: ARun, moment: Moment, record: Callable[[str, object], None]) -> Ended:
    """How a run ends that is asked to stop at a moment: with 75, as preempted, and soon."""
    attempt = start(trainer, run, moment)
    wait_for(attempt, moment, random.Random(7))
    asked = time.monotonic()
    attempt.send(signal.SIGTERM)
    ended = attempt.end()
    took = time.monotonic() - asked
    record("seconds_to_stop", round(took, 2))
    assert (ended.code, ended.outcome.outcome) == (ExitCode.PREEMPTED, Result.PREEMPTED), ended.log
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.reason == "Preempted"
    assert took < SECONDS, ended.log
    return ended


@pytest.fixture
def long_run(tmp_path: Path, models: Callable[[str], Path], rows: Path) -> ARun:
    """Few steps, and many rows to encode and to evaluate on."""
    held = write_rows(tmp_path / "held.csv", sentences(LONG, seed=1))
    run = a_run(tmp_path, rows.as_uri(), models("bert").as_uri(), maxSteps=60)
    run = run.with_("dataset", validation={"sources": [{"uri": held.as_uri()}]}, dedup={"acrossSplits": False})
    return run.with_("evaluation", strategy="Never")


@pytest.mark.parametrize("processes", [pytest.param(1, id="1 process"), pytest.param(2, id="2 processes")])
def test_in_training_it_does_at_most_one_step_more(
    processes: int, trainer: WarmTrainer, long_run: ARun, record_property: Callable[[str, object], None]
) -> None:
    """Beside the one that it is in. A step here is sixteen micro-batches."""
    run = long_run.with_processes(processes).with_("training", trainBatchSize=128)
    seen = 0

    def comes(attempt: object, dice: random.Random) -> Callable[[], bool]:  # noqa: ARG001
        def has_come() -> bool:
            nonlocal seen
            seen = logged_step(run)
            return seen >= 3

        return has_come

    stopped(trainer, run, Moment("in training", comes, within=0.0), record_property)
    (saved,) = run.checkpoints.glob("step-*")
    assert seen <= int(saved.name.removeprefix("step-")) <= seen + 2


def test_an_evaluation_is_left_in_the_middle(
    trainer: WarmTrainer, long_run: ARun, record_property: Callable[[str, object], None]
) -> None:
    """By both processes; what it found so far is thrown away, and the step before it is saved."""
    run = long_run.with_processes(2).with_("evaluation", strategy="Steps", steps=4)
    stopped(trainer, run, in_evaluation(), record_property)
    assert not [line for line in run.lines("metrics.jsonl") if "validation_loss" in line]
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-4"]


def test_feature_caching_is_left_in_the_middle(
    trainer: WarmTrainer, long_run: ARun, record_property: Callable[[str, object], None]
) -> None:
    run = with_method(long_run, type="freeze", freeze={"backbone": True})
    ended = stopped(trainer, run, in_features(), record_property)
    assert "rows were computed once" not in ended.log
    assert not list(run.checkpoints.glob("step-*"))


def test_preparation_is_left_in_the_middle(
    trainer: WarmTrainer, long_run: ARun, record_property: Callable[[str, object], None]
) -> None:
    slow = replace(in_preparation(), cold_cache=True)
    stopped(trainer, long_run, slow, record_property)
    assert not list(long_run.checkpoints.glob("step-*"))


def test_a_save_is_finished(
    trainer: WarmTrainer, long_run: ARun, record_property: Callable[[str, object], None]
) -> None:
    """And what came after it is saved, too."""
    run = long_run.with_("checkpoint", everySteps=4)
    ended = stopped(trainer, run, in_save(), record_property)
    saved = [int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*")]
    assert f"saved at step {max(saved)} of" in (ended.outcome.failure.message if ended.outcome.failure else "")
    assert not list(run.checkpoints.glob(".tmp-*"))


def test_a_grace_too_short_for_the_save_leaves_the_last_good_one(
    trainer: WarmTrainer, small_run: ARun, tmp_path: Path
) -> None:
    """The save is killed in the middle; the next attempt goes on from the one before, to the same bytes."""
    run = small_run.with_("training", maxSteps=40).with_("evaluation", strategy="Never")
    alone = in_folder(run, tmp_path / "alone")
    assert trainer.run(alone).code == ExitCode.DONE
    good, moment = run.with_("checkpoint", everySteps=8), at_steps("after a save", 12, 16)
    attempt = start(trainer, good, moment)
    wait_for(attempt, moment, random.Random(3))
    attempt.vanish()
    before = sorted(path.name for path in run.checkpoints.glob("step-*"))

    short = next_attempt(run, graceSeconds=1)
    attempt = trainer.start(short, on_a_slower_disk)
    attempt.until(lambda: logged_step(run) >= 20, "step 20")
    attempt.send(signal.SIGTERM)
    ended = attempt.end()
    assert (ended.code, ended.outcome.outcome) == (ExitCode.PREEMPTED, Result.PREEMPTED), ended.log
    assert sorted(path.name for path in run.checkpoints.glob("step-*")) == before
    assert list(run.checkpoints.glob(".tmp-step-*"))

    last = next_attempt(short, graceSeconds=30)
    ended = trainer.run(last)
    assert ended.code == ExitCode.DONE, ended.log
    assert resumed_step(last) in (8, 16)
    assert what_is_left(last) == what_is_left(alone)
