"""launch.py around a real torchrun with two processes: what becomes of each way in which a run can end."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.progress import Failure, FailureClass, Outcome, Result
from support.launcher import Launched, Launcher

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
Start = Callable[..., Launcher]
PRELUDE = """
import os, signal, sys, time
rank = int(os.environ['RANK'])
def say(line):
    os.write(1, f"{line}\\n".encode())  # in one piece: both processes write to the same file
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a script's text by torchrun as the only node, if nothing else is said."""

    def start(text: str, **environment: str) -> Launcher:
        script = tmp_path / "train.py"
        script.write_text(PRELUDE + text)
        alone = {
            "PET_NNODES": "1",
            "PET_NPROC_PER_NODE": "2",
            "PET_NODE_RANK": "0",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
        }
        return Launcher(tmp_path / "here", TORCHRUN, str(script), **alone | environment)

    return start


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


RAISES = """
from torch.distributed.elastic.multiprocessing.errors import record
@record
def main():
    if rank == 1:
        open("lost", "w").close()
        raise ValueError("row 17 has no label")
    while not os.path.exists("lost"):
        time.sleep(0.05)
    time.sleep(0.5)
    raise RuntimeError("gloo: Connection closed by peer")
main()
"""


def test_a_recorded_error_becomes_the_outcome_with_rank_and_traceback(start: Start) -> None:
    """Rank 0 only lost its peer; torchrun, which counts in seconds, may take either for the first."""
    end = start(RAISES).end()
    assert end.code == 1
    failure = failure_of(end)
    tail = failure.log_tail
    assert tail is not None
    assert failure.model_copy(update={"log_tail": None}) == Failure(
        class_=FailureClass.CODE_ERROR,
        reason="ValueError",
        message="rank 1: ValueError: row 17 has no label",
        hint="its traceback is in the log",
        rank=1,
        exit_code=1,
    )
    assert tail.startswith("Traceback (most recent call last):")
    assert tail.endswith("ValueError: row 17 has no label")


def failure_of(end: Launched) -> Failure:
    assert end.message, end.log
    assert end.outcome.failure is not None
    return end.outcome.failure


def test_a_killed_process_leaves_torchruns_summary_to_the_kubelet(start: Start) -> None:
    """torch has no error file of a process that was killed; the summary is within the log's tail that is kept."""
    end = start("if rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)").end()
    assert (end.code, end.message) == (1, "")
    kept = end.log[-2048:]
    assert "Root Cause (first observed failure)" in kept
    assert "exitcode  : -9" in kept


def test_a_clean_end_leaves_nothing(start: Start) -> None:
    end = start("say(f\"PET_NODE_RANK {os.environ['PET_NODE_RANK']} rank {rank}\")").end()
    assert (end.code, end.message) == (0, "")
    assert all(f"PET_NODE_RANK 0 rank {rank}\n" in end.log for rank in (0, 1))


SAVES = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
time.sleep(1)
say(f"ready {rank}")
signal.sigwait({signal.SIGTERM})
time.sleep(1)
say(f"saved {rank}")
sys.exit(75)
"""
"""No handler: its signal may come within a print. torchrun needs a moment to know its processes."""


def test_every_process_may_save_when_the_pod_is_told_to_stop(start: Start) -> None:
    """torchrun ends with 1 then, and writes an error file about its own SIGTERM: neither is a fault."""
    running = start(SAVES, PET_SHUTDOWN_TIMEOUT="30")
    for rank in (0, 1):
        running.until(f"ready {rank}")
    running.send(signal.SIGTERM)
    end = running.end()
    assert all(f"saved {rank}" in end.log for rank in (0, 1)), end.log
    stopped = Failure(class_=FailureClass.PREEMPTED, reason="Preempted", message="asked to stop", exit_code=143)
    assert (end.code, end.outcome) == (143, Outcome(outcome=Result.PREEMPTED, failure=stopped))


def test_torchruns_own_error_is_told_too(start: Start) -> None:
    """Nobody answers at the address of the first node."""
    nobody = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "FINETUNE_NODE_RANK": "1", "PET_RDZV_CONF": "timeout=2"}
    failure = failure_of(start("", **nobody).end())
    assert (failure.class_, failure.rank) == (FailureClass.COLLECTIVE_TIMEOUT, None), failure
