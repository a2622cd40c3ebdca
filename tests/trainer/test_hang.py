"""A run that stands still is ended within its time, with the stack of every rank; one that is slow is let be."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune_api.progress import ExitCode, FailureClass
from finetune_trainer import heartbeat, stacks
from finetune_trainer.errors import Hang
from finetune_trainer.gang import Gang
from finetune_trainer.hang import HANG_DELAY, Silence, Watch, allowed, describe, watched
from finetune_trainer.heartbeat import Beat, Pulse
from support import hanging
from support.runs import ARun, WarmTrainer

torch = pytest.mark.torch
TIMEOUT = 4
PORT = "29633"
STACK = """\
Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait

Current thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/socket.py", line 10 in recv
  File "/app/finetune_trainer/loop.py", line 91 in next_batches
  File "/app/finetune_trainer/worker.py", line 7 in work"""

TRACEBACK = """\
(most recent call last):
  File "/app/finetune_trainer/worker.py", line 7 in work
  File "/app/finetune_trainer/loop.py", line 91 in next_batches
  File "/usr/lib/python3.11/socket.py", line 10 in recv"""


def test_beats_are_seen_by_who_looks(tmp_path: Path) -> None:
    """Each rank has its own place; joining, a step, waiting and going on are signs of work."""
    path = heartbeat.prepare(tmp_path, 2)
    before = heartbeat.read(path)
    pulse = Pulse()
    pulse.join(path, 1)
    pulse.beat(Beat(0.0, step=7, waiting=True))
    first, second = heartbeat.read(path)
    assert first == before[0]
    assert (second.step, second.waiting) == (7, True)
    assert second.time >= before[1].time
    assert pulse.count == 2


def test_who_prepares_or_concludes_is_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse()
    monkeypatch.setattr(heartbeat, "PULSE", pulse)
    pulse.beat(Beat(0.0, apart=True))
    seen = [pulse.last.apart]
    for sign in (heartbeat.beat, lambda: heartbeat.beat(0), heartbeat.beat, heartbeat.conclude, heartbeat.beat):
        sign()
        seen.append(pulse.last.apart)
    assert seen == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    ("looks", "silent"),
    [
        pytest.param([(1, 0.0)], 0.0, id="the first look"),
        pytest.param([(1, 0.0), (1, 5.0), (1, 8.0)], 8.0, id="no sign"),
        pytest.param([(1, 0.0), (1, 5.0), (2, 8.0), (2, 9.5)], 1.5, id="a sign"),
        pytest.param([(1, 0.0), (1, 5.0), (1, 90_000.0)], 15.0, id="the machine slept"),
    ],
)
def test_silence(looks: list[tuple[int, float]], silent: float) -> None:
    silence = Silence()
    assert [silence.look(sign, now) for sign, now in looks][-1] == silent


WORKS, WAITS, PREPARES = Beat(0.0, 3), Beat(0.0, 3, waiting=True), Beat(0.0, None, waiting=True)


@pytest.mark.parametrize(
    ("beats", "alone", "seconds"),
    [
        pytest.param([WORKS, WAITS], False, 100, id="one of ours does nothing"),
        pytest.param([WAITS, WAITS], False, 100 + HANG_DELAY, id="all wait: another pod goes first"),
        pytest.param([WAITS, WAITS], True, 100, id="all wait, and there is no other pod"),
        pytest.param([PREPARES, PREPARES], False, 200, id="another pod still prepares"),
        pytest.param([PREPARES, PREPARES], True, 100, id="nobody still prepares"),
    ],
)
def test_how_long_is_too_long(beats: list[Beat], alone: bool, seconds: float) -> None:
    assert allowed(beats, 100, alone) == seconds


@pytest.mark.parametrize(
    ("beats", "rank", "message"),
    [
        pytest.param(
            {2: Beat(95.0, 12), 3: Beat(96.0, 12, waiting=True)},
            2,
            "no sign of work for 60 s, since 1970-01-01T00:16:36Z: rank 2 stood still after step 12 at "
            "loop.py:91 in next_batches (last sign 1970-01-01T00:16:35Z); 1 other of this pod waited for peers",
            id="one stands still",
        ),
        pytest.param(
            {0: Beat(96.0), 1: Beat(95.0)},
            1,
            "no sign of work for 60 s, since 1970-01-01T00:16:36Z: rank 1 stood still while it prepared "
            "(last sign 1970-01-01T00:16:35Z); rank 0 stood still while it prepared (last sign 1970-01-01T00:16:36Z)",
            id="two, the first one first",
        ),
        pytest.param(
            {0: Beat(95.0, 1, waiting=True)},
            0,
            "no sign of work for 60 s, since 1970-01-01T00:16:35Z: rank 0 waited for peers after step 1 "
            "(last sign 1970-01-01T00:16:35Z)",
            id="only waiting",
        ),
        pytest.param(
            {rank: Beat(95.0, 1) for rank in range(10, 18)},
            10,
            "no sign of work for 60 s, since 1970-01-01T00:16:35Z: "
            + "; ".join(
                f"rank {rank} stood still after step 1 (last sign 1970-01-01T00:16:35Z)" for rank in range(10, 14)
            )
            + "; 4 more",
            id="many",
        ),
    ],
)
def test_what_is_said(beats: dict[int, Beat], rank: int, message: str) -> None:
    failure = describe(beats, {2: STACK}, silent=60, now=155.0, wall=1055.0)
    assert (failure.class_, failure.exit_code, failure.rank) == (FailureClass.HANG, ExitCode.CODE_ERROR, rank)
    assert failure.message == message
    assert failure.log_tail == (TRACEBACK if rank == 2 else None)


def test_a_process_that_stands_still_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    """By a thread of its own; its stack is shown, the main thread's among them."""
    given_up: list[Hang] = []
    with watched(1.0, given_up.append):
        _stand_still(2.5)
    assert given_up
    assert "_stand_still" in capfd.readouterr().err


def _stand_still(seconds: float) -> None:
    time.sleep(seconds)


def test_a_process_that_works_is_let_be(tmp_path: Path) -> None:
    """Beats, processor time and written bytes are work."""
    given_up: list[Hang] = []
    with watched(3.0, given_up.append):
        for work in (heartbeat.beat, _compute, lambda: _write(tmp_path / "file")):
            until = time.monotonic() + 4.0
            while time.monotonic() < until:
                work()
    assert not given_up


def _compute() -> None:
    sum(range(1_000_000))


def _write(path: Path) -> None:
    time.sleep(0.1)
    with path.open("a") as file:
        file.write("x")


SCRIPT = """
import ctypes, os, sys, time
from pathlib import Path
from finetune_trainer import heartbeat, stacks
stacks.answer(Path(os.environ["SCRATCH"]), int(os.environ["RANK"]))
heartbeat.PULSE.join(Path(os.environ["SCRATCH"], heartbeat.BEATS), int(os.environ["RANK"]))
def work():
"""
SLEEP, WAIT = "time.sleep(60)", "with heartbeat.waiting(): time.sleep(60)"
NATIVE = "m = ctypes.create_string_buffer(64); [ctypes.PyDLL(None).pthread_mutex_lock(m) for _ in range(2)]"
COMPUTE = (
    "[sum(range(2_000_000)) for start in [time.monotonic()] for _ in iter(lambda: time.monotonic() - start < 3, False)]"
)
BEAT = "[(heartbeat.beat(step), time.sleep(0.1)) for step in range(30)]"


def ranks(scratch: Path, timeout: float | None, *programs: str) -> tuple[Gang, Watch, float]:
    """Small programs as the ranks of a pod, waited for; and how long that took."""
    watch = Watch(scratch, range(len(programs)), timeout, alone=True)
    environments = [
        {**os.environ, "RANK": str(rank), "SCRATCH": str(scratch), "PROGRAM": f"{SCRIPT}    {program}\nwork()"}
        for rank, program in enumerate(programs)
    ]
    gang, started = Gang(environments, _launch), time.monotonic()
    gang.wait((0,), lambda: False, 10, watch.hangs)
    return gang, watch, time.monotonic() - started


def _launch(environment: Mapping[str, str]) -> int:
    process = subprocess.Popen([sys.executable, "-c", environment["PROGRAM"]], env=environment)
    process.returncode = 0  # the gang reaps it
    return process.pid


@pytest.mark.parametrize("stuck", [pytest.param(SLEEP, id="asleep"), pytest.param(NATIVE, id="in native code")])
def test_ranks_that_stand_still_are_killed(stuck: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Within seconds, with their stacks, also where one holds the interpreter in a C function."""
    gang, watch, took = ranks(tmp_path, 2, WAIT, stuck)
    assert gang.ended == {0: -signal.SIGKILL, 1: -signal.SIGKILL}
    assert gang.ended_by_us == {0, 1}
    assert 2 <= took < 15
    assert watch.failure is not None
    assert watch.failure.rank == 1
    assert "rank 1 stood still while it prepared at <string>:8 in " in watch.failure.message
    said = capfd.readouterr().err
    assert '[rank 0]   File "<string>", line 8 in work' in said
    assert '[rank 1]   File "<string>", line 8 in ' in said
    assert "[supervisor]" in said


@pytest.mark.parametrize(
    ("timeout", "program"),
    [
        pytest.param(2, BEAT, id="slow"),
        pytest.param(2, COMPUTE, id="computing before the first step"),
        pytest.param(None, "time.sleep(3)", id="nobody looks"),
    ],
)
def test_ranks_that_work_are_let_be(timeout: float | None, program: str, tmp_path: Path) -> None:
    """They take longer than they may stand still."""
    gang, watch, took = ranks(tmp_path, timeout, program, program)
    assert (gang.ended, watch.failure) == ({0: 0, 1: 0}, None)
    assert took >= 3


def test_a_rank_that_cannot_answer_is_told_of(tmp_path: Path) -> None:
    """Stopped by a signal it runs no handler: the kernel still knows its state."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.kill(process.pid, signal.SIGSTOP)
    try:
        said = stacks.collect(tmp_path, {3: process.pid})
    finally:
        process.kill()
        process.wait()
    assert said[3] == f"process {process.pid} does not answer; its state is T (stopped)"
    assert stacks.place(said[3]) is None


def hanging_run(run: ARun, processes: int = 2) -> ARun:
    run = run.with_processes(processes).with_("checkpoint", everySteps=3).with_("training", maxSteps=8)
    return looked_after(run, TIMEOUT)


def looked_after(run: ARun, seconds: int) -> ARun:
    return ARun(run.root, {**run.config, "hangTimeoutSeconds": seconds})


@torch
def test_a_rank_that_stands_still_ends_the_run(trainer: WarmTrainer, small_run: ARun) -> None:
    """As a Hang of that rank, with where it stands; the next attempt goes on from the last save."""
    run = hanging_run(small_run)
    attempt = trainer.start(run, hanging.asleep)
    attempt.until_step(hanging.STEP)
    stood_still = time.monotonic()
    ended = attempt.end()
    assert TIMEOUT - 1 < time.monotonic() - stood_still < TIMEOUT + 15
    failure = ended.outcome.failure
    assert failure is not None
    assert (ended.code, failure.class_, failure.rank) == (ExitCode.CODE_ERROR, FailureClass.HANG, 1), ended.log
    assert "rank 1 stood still after step 5" in failure.message
    assert "1 other of this pod waited for peers" in failure.message
    assert "hanging.py" in (failure.log_tail or "")
    assert re.search(r"\[rank 1\] .*hanging\.py", ended.log), ended.log
    assert re.search(r"\[rank 0\] .*loop\.py", ended.log), ended.log
    assert re.search(r"\[supervisor\](.*\n)*.*supervisor\.py", ended.log), ended.log
    assert run.read("status.json")["failure"]["class"] == "Hang"
    again = trainer.run(looked_after(run, 1800).with_("job", attempt=2))
    assert again.code == ExitCode.DONE, again.log
    assert "resumed from step 3" in again.log


@torch
def test_the_pod_with_the_cause_ends_first(trainer: WarmTrainer, small_run: ARun) -> None:
    """The other one, whose rank only waited, shows its stack too, and ends later."""
    run = hanging_run(small_run, 1)
    attempts = []
    for node in range(2):
        config = {**run.config, "resources": {"nodes": 2, "processesPerNode": 1}}
        environment = {"JOB_COMPLETION_INDEX": str(node), "MASTER_ADDR": "localhost", "MASTER_PORT": PORT}
        attempts.append(trainer.start(ARun(run.root / f"node-{node}", config), hanging.asleep, **environment))
    other, culprit = attempts
    ended = culprit.end()
    assert other.process.is_alive()
    failure = ended.outcome.failure
    assert failure is not None
    assert (ended.code, failure.class_, failure.rank) == (ExitCode.CODE_ERROR, FailureClass.HANG, 1), ended.log
    later = other.end()
    assert later.outcome.failure is not None
    assert later.outcome.failure.reason in {"PeerLost", "Hang"}, later.log


@torch
def test_a_preflight_that_stands_still_ends_the_run(trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    """Here a volume that does not answer: opening the model's configuration never ends."""
    model = tmp_path / "model"
    model.mkdir()
    os.mkfifo(model / "config.json")
    ended = trainer.run(hanging_run(small_run).with_("model", uri=model.as_uri()))
    failure = ended.outcome.failure
    assert failure is not None
    assert (ended.code, failure.class_) == (ExitCode.CODE_ERROR, FailureClass.HANG), ended.log
    assert "while model and data were read and checked" in failure.message
    assert "model_folder.py" in ended.log
    assert run_status(small_run) == "Failed"


@torch
def test_a_hanging_volume_does_not_keep_the_pod(trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    """The folder of the run does not answer either, where the end is to be written: the kubelet hears of it."""
    model = tmp_path / "model"
    model.mkdir()
    os.mkfifo(model / "config.json")
    run = hanging_run(small_run).with_("model", uri=model.as_uri())
    attempt = trainer.start(run, hanging.asleep)
    status = run.folder / "status.json"
    attempt.until(status.exists, "status.json")
    status.unlink()
    os.mkfifo(status)
    ended = attempt.end()
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.class_) == (ExitCode.CODE_ERROR, FailureClass.HANG)


def run_status(run: ARun) -> str:
    phase: str = run.read("status.json")["phase"]
    return phase
