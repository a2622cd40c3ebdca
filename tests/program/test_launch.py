"""launch.py around programs that know nothing of torch: signals, exit codes, orphans, and what an error means."""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from finetune_api.progress import TERMINATION_BYTES, Failure, FailureClass, Outcome, Result
from finetune_operator.program import launch, launcher
from finetune_operator.program.launch import End, Error, judge
from support.launcher import Launcher, launched

PYTHON = sys.executable


def test_the_launchers_text_is_what_pods_get_and_any_python_since_3_8_reads_it() -> None:
    assert launcher() == Path(str(launch.__file__)).read_text()
    tree = ast.parse(launcher(), feature_version=(3, 8))
    imported = {alias.name.partition(".")[0] for node in ast.walk(tree) for alias in _imports(node)}
    assert imported <= sys.stdlib_module_names
    assert len(launcher()) < 20_000, "it goes into every attempt's ConfigMap"


def _imports(node: ast.AST) -> list[ast.alias]:
    if isinstance(node, ast.ImportFrom):
        return [ast.alias(node.module or "")]
    return node.names if isinstance(node, ast.Import) else []


@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param("exit 0", 0, id="success"),
        pytest.param("exit 3", 3, id="a code of its own"),
        pytest.param("exit 78", 78, id="a code with a class"),
        pytest.param("kill -KILL $$", 137, id="killed"),
        pytest.param("kill -SEGV $$", 139, id="crashed"),
        pytest.param("(sleep 0.2; exit 9) & exit 4", 4, id="an orphan left behind"),
        pytest.param("(exec sleep 0.1) & sleep 0.3; exit 5", 5, id="a child that ends first"),
    ],
)
def test_the_exit_code_goes_through_and_the_kubelet_gets_the_log(tmp_path: Path, script: str, code: int) -> None:
    """Without an error file no termination message is left, so that the end of the log becomes it."""
    end = launched(tmp_path, "sh", "-c", f"echo working; {script}")
    assert (end.code, end.log, end.message) == (code, "working\n", "")


@pytest.mark.parametrize(
    ("program", "code", "reason", "why"),
    [
        pytest.param("no-such-program", 127, "ProgramNotFound", "No such file or directory", id="not found"),
        pytest.param("/etc/passwd", 126, "ProgramNotExecutable", "Permission denied", id="not executable"),
    ],
)
def test_a_program_that_cannot_be_run_names_the_field(
    tmp_path: Path, program: str, code: int, reason: str, why: str
) -> None:
    end = launched(tmp_path, program, "--epochs=3")
    assert end.code == code
    assert end.outcome == Outcome(
        outcome=Result.FAILED,
        failure=Failure(
            class_=FailureClass.CONFIG_ERROR,
            reason=reason,
            message=f"spec.trainer.command: {program} cannot be run: {why}",
            hint="name a program that is in the image's PATH, or its whole path",
            exit_code=code,
        ),
    )


def test_the_program_starts_with_the_signals_and_the_environment_of_one_that_was_started_alone(tmp_path: Path) -> None:
    """Python ignores two signals, and the launcher blocks some: neither is inherited. What the user has set wins."""
    script = "grep -E 'SigIgn|SigBlk' /proc/self/status; echo $PYTHONUNBUFFERED $PYTHONFAULTHANDLER $A"
    end = launched(tmp_path, "sh", "-c", script, PYTHONFAULTHANDLER="0", A="a")
    blocked, ignored, variables = end.log.splitlines()
    assert signals_of(blocked) == signals_of(ignored) == set()
    assert variables == "1 0 a"


def signals_of(line: str) -> set[signal.Signals]:
    """The signals in a line of /proc/self/status."""
    bits = int(line.split()[1], 16)
    return {number for number in signal.Signals if bits & 1 << number - 1}


def test_what_the_programs_python_path_holds_does_not_disturb_the_launcher(tmp_path: Path) -> None:
    (tmp_path / "signal.py").write_text("raise SystemExit('not the standard library')")
    end = launched(tmp_path, "sh", "-c", 'echo "$PYTHONPATH"', PYTHONPATH=str(tmp_path))
    assert (end.code, end.log) == (0, f"{tmp_path}\n")


TRAPPED = "trap 'echo {name}; {then}' {name}; echo ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("name", "then", "code", "result"),
    [
        pytest.param("TERM", "exit 75", 75, Result.PREEMPTED, id="saved and said so"),
        pytest.param("TERM", "exit 1", 143, Result.PREEMPTED, id="ended as torchrun does"),
        pytest.param("INT", "exit 130", 143, Result.PREEMPTED, id="a person's Ctrl-C"),
        pytest.param("TERM", "exit 0", 0, None, id="done just then"),
        pytest.param("USR1", "exit 3", 3, None, id="a signal that does not mean stop"),
    ],
)
def test_signals_are_handed_on_and_being_told_to_stop_is_no_fault(
    tmp_path: Path, name: str, then: str, code: int, result: Result | None
) -> None:
    running = Launcher(tmp_path, "sh", "-c", TRAPPED.format(name=name, then=then))
    running.until("ready")
    running.send(signal.Signals[f"SIG{name}"])
    end = running.end()
    assert (end.code, f"ready\n{name}\n" in end.log) == (code, True)
    if result is None:
        assert end.message == ""
        return
    assert end.outcome.outcome is result
    assert end.outcome.failure is not None
    assert (end.outcome.failure.class_, end.outcome.failure.exit_code) == (FailureClass.PREEMPTED, code)


STUCK = """
import subprocess, sys, time
def waits_for_ever():
    print("ready", flush=True)
    time.sleep(60)
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
waits_for_ever()
"""


def test_a_person_gets_the_stacks_of_all_processes(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    running = Launcher(tmp_path / "here", PYTHON, str(script))
    running.until("ready\nready")
    running.send(signal.SIGUSR2)
    end = running.end()
    assert end.code == 134
    assert end.log.count("Fatal Python error: Aborted") == 2
    assert end.log.count("in waits_for_ever") == 2


def test_what_does_not_stop_in_time_leaves_its_stacks(tmp_path: Path) -> None:
    """As a program that hangs does not, when the operator gives it up."""
    script = tmp_path / "stuck.py"
    script.write_text(f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{STUCK}")
    running = Launcher(tmp_path / "here", PYTHON, str(script), FINETUNE_GRACE_SECONDS="1")
    running.until("ready\nready")
    running.send(signal.SIGTERM)
    end = running.end()
    assert end.log.count("in waits_for_ever") == 2
    assert (end.code, end.outcome.outcome) == (143, Result.PREEMPTED)
    assert end.outcome.failure is not None
    assert end.outcome.failure.message == "asked to stop, and did not in time: its stacks are in the log"


def error(message: str, at: float = 1.0, rank: int | None = 0) -> Error:
    return Error(message, f"Traceback (most recent call last):\n{message}", at, rank)


CLOSED = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.1.0.7]:40112"


@pytest.mark.parametrize(
    ("message", "class_", "reason"),
    [
        pytest.param("ValueError: row 17 has no label", "CodeError", "ValueError", id="an error of the code"),
        pytest.param("my.package.OddError", "CodeError", "OddError", id="an error without a message"),
        pytest.param("it just broke", "CodeError", "Exception", id="a message without a type"),
        pytest.param(
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB",
            "OutOfMemoryGPU",
            "OutOfMemoryGPU",
            id="GPU memory",
        ),
        pytest.param("MemoryError: ", "OutOfMemoryHost", "OutOfMemoryHost", id="memory"),
        pytest.param(
            "_ArrayMemoryError: Unable to allocate 3. TiB for an array",
            "OutOfMemoryHost",
            "OutOfMemoryHost",
            id="numpy",
        ),
        pytest.param(
            "RuntimeError: unable to write to file </torch_17_1_0>: No space left on device (28)",
            "ConfigError",
            "SharedMemoryFull",
            id="shared memory of a data loader",
        ),
        pytest.param("OSError: [Errno 28] No space left on device", "StorageFull", "StorageFull", id="a full volume"),
        pytest.param(CLOSED, "Unavailable", "PeerLost", id="gloo lost a peer"),
        pytest.param(
            "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network",
            "Unavailable",
            "PeerLost",
            id="NCCL lost a peer",
        ),
        pytest.param(
            "DistStoreError: Timed out after 901 seconds waiting for clients. 1/2 clients joined.",
            "CollectiveTimeout",
            "CollectiveTimeout",
            id="nobody came",
        ),
        pytest.param(
            "RuntimeError: [pair.cc] gloo: Timed out waiting 1800000ms for recv operation to complete",
            "CollectiveTimeout",
            "CollectiveTimeout",
            id="a peer that does not answer",
        ),
        pytest.param("TimeoutError: the API timed out", "CodeError", "TimeoutError", id="another kind of timeout"),
    ],
)
def test_what_an_error_means(message: str, class_: str, reason: str) -> None:
    found = judge(End(1), [error(message)])
    outcome = Outcome.model_validate(found.outcome)
    assert outcome.failure is not None
    assert (found.code, outcome.failure.class_, outcome.failure.reason) == (1, class_, reason)
    assert outcome.failure.message == f"rank 0: {message.strip()}"
    assert outcome.failure.hint


SIGNALLED = "SignalException: Process 7 got signal: 15"


@pytest.mark.parametrize(
    ("end", "errors", "said"),
    [
        pytest.param(End(0), [error("ValueError: x")], (0, None), id="an error that the program got over"),
        pytest.param(End(1), [], (1, None), id="no error file"),
        pytest.param(
            End(1), [error("B: late", 2, 0), error("A: early", 1, 3)], (1, "rank 3: A: early"), id="the earliest"
        ),
        pytest.param(
            End(1),
            [error(CLOSED, 1, 0), error("ValueError: cause", 2, 1)],
            (1, "rank 1: ValueError: cause"),
            id="a cause before its consequence, whatever their times",
        ),
        pytest.param(End(1), [error("ValueError: x", rank=None)], (1, "ValueError: x"), id="a rank that is not known"),
        pytest.param(End(1, 5.0), [error(SIGNALLED, 5)], (143, "asked to stop"), id="told to stop"),
        pytest.param(
            End(1, 5.0), [error("ValueError: x", 4)], (1, "rank 0: ValueError: x"), id="told to stop after a fault"
        ),
        pytest.param(End(1, 5.0), [error("OSError: x", 6)], (143, "asked to stop"), id="a fault while stopping"),
        pytest.param(End(1, 5.0), [error(CLOSED, 4)], (143, "asked to stop"), id="told to stop as its peers were"),
    ],
)
def test_which_error_is_the_cause(end: End, errors: list[Error], said: tuple[int, str | None]) -> None:
    found = judge(end, errors)
    assert (found.code, found.outcome and found.outcome["failure"]["message"]) == said


def test_a_lost_peer_of_the_same_pod_is_left_to_torchruns_summary() -> None:
    """A process that was killed leaves no file, and its peers record that they lost it."""
    assert judge(End(1), [error(CLOSED)], silent=True) == (1, None, True)
    assert judge(End(1), [error(CLOSED)], silent=False).outcome is not None
    assert judge(End(1), [error("ValueError: x")], silent=True).outcome is not None


def test_a_pod_that_only_lost_a_peer_ends_after_the_one_with_the_cause(tmp_path: Path) -> None:
    script = f"""import json, os
json.dump({{"message": {CLOSED!r}}}, open(os.environ["TORCHELASTIC_ERROR_FILE"], "w"))
raise SystemExit(1)"""
    alone, among = (Launcher(tmp_path / n, PYTHON, "-c", script, FINETUNE_NODES=n) for n in ("1", "2"))
    assert alone.end().outcome.failure is not None
    assert among.process.poll() is None
    end = among.end()
    assert end.outcome.failure is not None
    assert (end.code, end.outcome.failure.reason) == (1, "PeerLost")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut off"),
        pytest.param("[1]", id="a list"),
        pytest.param('{"other": 1}', id="another object"),
    ],
)
def test_an_error_file_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "error.json"
    path.write_text(content)
    assert launch.read_error(str(path)) is None


def test_the_newest_start_of_torchrun_counts(tmp_path: Path) -> None:
    """A script may call torchrun twice, and torchrun may start its workers anew."""
    for age, start in enumerate(("none_b/attempt_1", "none_b/attempt_0", "none_a/attempt_0")):
        for rank in (0, 1, 10):
            (tmp_path / start / str(rank)).mkdir(parents=True)
        os.utime(tmp_path / start, (1000 - age, 1000 - age))
    newest = tmp_path / "none_b" / "attempt_1"
    assert launch.worker_files(str(tmp_path)) == {r: str(newest / str(r) / "error.json") for r in (0, 1, 10)}
    assert launch.worker_files(str(tmp_path / "nothing")) == {}


@pytest.mark.parametrize(
    ("environment", "command", "rank"),
    [
        pytest.param({}, ["torchrun", "train.py"], 1, id="the only node"),
        pytest.param({"FINETUNE_NODE_RANK": "3"}, ["torchrun", "train.py"], 7, id="the fourth node of two processes"),
        pytest.param(
            {"FINETUNE_NODE_RANK": "3", "PET_RDZV_BACKEND": "c10d"},
            ["torchrun", "x.py"],
            None,
            id="ranks by rendezvous",
        ),
        pytest.param({}, ["torchrun", "--rdzv-backend=c10d", "x.py"], None, id="ranks by rendezvous, by argument"),
    ],
)
def test_the_rank_is_told_where_it_follows_from_the_node(
    tmp_path: Path, environment: dict[str, str], command: list[str], rank: int | None
) -> None:
    workers = tmp_path / "none_a" / "attempt_0"
    for local in (0, 1):
        (workers / str(local)).mkdir(parents=True)
    (workers / "1" / "error.json").write_text('{"message": "ValueError: x"}')
    own = {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "none")}
    (found,) = launch.read_errors(launch.worker_files(str(tmp_path)), own | environment, command)
    assert (found.rank, found.message) == (rank, "ValueError: x")


@pytest.mark.parametrize("letter", ["x", "ä", "🦊", "\0", "\udcff"])
def test_the_message_fits_whatever_the_error_says(letter: str) -> None:
    """The end of the traceback is kept before its start, and the start of the message before its end."""
    lines = "\n".join(f"line {number} {letter * 400}" for number in range(40))
    found = judge(End(1), [Error(f"ValueError: first {letter * 5000}", lines, 1.0, 3)])
    assert found.outcome is not None
    text = launch.termination_message(found.outcome)
    assert len(text) <= TERMINATION_BYTES
    outcome = Outcome.model_validate_json(text)
    assert outcome.failure is not None
    assert outcome.failure.message.startswith("rank 3: ValueError: first ")
    assert json.loads(text)["failure"]["class"] == "CodeError"
