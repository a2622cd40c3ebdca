"""The next attempt may have more or fewer processes: it goes on with the same rows in the same steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load

from finetune_api.progress import ExitCode
from support.runs import ARun, Attempt, WarmTrainer, a_run

pytestmark = pytest.mark.torch
STEPS = 24
KILLED_AT = 9
PORT = "29651"


def a_small_run(small_run: ARun, processes: int) -> ARun:
    """Without dropout, which draws other numbers where micro-batches are smaller."""
    run = small_run.with_("training", maxSteps=STEPS, dropout=0.0, learningRate=5e-4)
    return run.with_processes(processes).with_("checkpoint", everySteps=4)


def losses(run: ARun) -> list[float]:
    """Of each step, once."""
    found = {line["step"]: line["loss"] for line in run.lines("metrics.jsonl") if "loss" in line}
    return [found[step] for step in sorted(found)]


def difference(one: ARun, other: ARun) -> float:
    weights, others = load(one.weights()), load(other.weights())
    return max(float(abs(weights[name] - others[name]).max()) for name in weights)


def nodes(trainer: WarmTrainer, run: ARun, count: int, missing: int = 0) -> list[Attempt]:
    """The run as pods on this machine, with one process each; the last ones may be missing."""
    attempts = []
    for node in range(count - missing):
        config = {**run.config, "resources": {"nodes": count, "processesPerNode": 1}}
        environment = {"JOB_COMPLETION_INDEX": str(node), "MASTER_ADDR": "localhost", "MASTER_PORT": PORT}
        attempts.append(trainer.start(ARun(run.root / f"nodes-{count}-{node}", config), **environment))
    return attempts


@pytest.fixture(scope="module")
def undisturbed(
    trainer: WarmTrainer, rows: Path, models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> ARun:
    """The run on two processes from start to end."""
    small = a_run(tmp_path_factory.mktemp("undisturbed"), rows.as_uri(), models("bert").as_uri())
    run = a_small_run(small, 2)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return run


@pytest.mark.parametrize(
    ("now", "smaller"), [pytest.param(1, False, id="fewer processes"), pytest.param(3, True, id="more processes")]
)
def test_other_processes_do_the_same_steps(
    now: int, smaller: bool, trainer: WarmTrainer, small_run: ARun, undisturbed: ARun
) -> None:
    """The same rows in each step, so the same losses, and weights within 1e-5; the log says what is not the same."""
    run = a_small_run(small_run, 2)
    attempt = trainer.start(run)
    attempt.until_step(KILLED_AT)
    attempt.vanish()
    ended = trainer.run(run.with_processes(now).with_("job", attempt=2))
    assert ended.code == ExitCode.DONE, ended.log
    assert ended.outcome.checkpoint is not None
    # That of step 8 may still be on its way to the disk.
    assert ended.outcome.checkpoint.resumed_from_step in {4, 8, 12, 16, 20}
    assert f"processes: 2 before, {now} now" in ended.log
    assert ("micro-batch: 8 rows before, 6 now" in ended.log) is smaller
    assert losses(run) == pytest.approx(losses(undisturbed), abs=1e-4)
    assert difference(run, undisturbed) < 1e-5
    assert run.read("run.json")["choices"] == undisturbed.read("run.json")["choices"]


def test_fewer_nodes_go_on_where_more_were(trainer: WarmTrainer, small_run: ARun, undisturbed: ARun) -> None:
    """Two pods, of which one is lost, and then one pod; and two again, which finish."""
    run = a_small_run(small_run, 1)
    both = nodes(trainer, run, 2)
    both[0].until_step(5)
    for attempt in both:
        attempt.vanish()
    alone = trainer.start(run.with_("job", attempt=2))
    alone.until_step(13)
    alone.vanish()
    ends = [attempt.end() for attempt in nodes(trainer, run.with_("job", attempt=3), 2)]
    assert [end.code for end in ends] == [ExitCode.DONE] * 2, ends[0].log + ends[1].log
    assert losses(run) == pytest.approx(losses(undisturbed), abs=1e-4)
    assert difference(run, undisturbed) < 1e-5


def test_a_pod_that_waits_for_its_peers_stops_when_asked(trainer: WarmTrainer, small_run: ARun) -> None:
    """At once: there is nothing to save before they have met."""
    (first,) = nodes(trainer, a_small_run(small_run, 1), 2, missing=1)
    first.until(lambda: first.ranks(), "ranks")
    time.sleep(2.0)
    asked = time.monotonic()
    first.send(signal.SIGTERM)
    ended = first.end()
    assert time.monotonic() - asked < 10
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.PREEMPTED, "Preempted"), ended.log
