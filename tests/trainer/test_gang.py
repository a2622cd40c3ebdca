"""Ranks, here small programs, end together: the peers of a dead one are ended, a request to stop is passed on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest

from finetune_trainer import gang
from finetune_trainer.gang import Gang

SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
ORDERLY = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)))\n"
    "print(flush=True); time.sleep(60)"
)


def launch(environment: Mapping[str, str]) -> int:
    """Start the Python program in PROGRAM, and wait for its first line if it prints one."""
    program = environment["PROGRAM"]
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    if "print" in program:
        assert process.stdout is not None
        process.stdout.readline()
    process.returncode = 0  # the gang reaps it
    return process.pid


def a_gang(*programs: str) -> Gang:
    return Gang([{"RANK": str(rank), "PROGRAM": program} for rank, program in enumerate(programs)], launch)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang, "PEER_GRACE", 0.5)


def test_all_done() -> None:
    ranks = a_gang("", "")
    ranks.wait((0, 75), lambda: False, grace=10)
    assert ranks.ended == {0: 0, 1: 0}


def test_the_peers_of_a_dead_rank_are_ended() -> None:
    """With SIGTERM, and where that does not help with SIGKILL."""
    ranks = a_gang("raise SystemExit(70)", SLEEP, STUBBORN)
    started = time.monotonic()
    ranks.wait((0, 75), lambda: False, grace=60)
    assert ranks.ended == {0: 70, 1: -signal.SIGTERM, 2: -signal.SIGKILL}
    assert ranks.ended_by_us == {2}
    assert time.monotonic() - started < 20


def test_a_rank_that_is_done_leaves_its_peers_alone() -> None:
    ranks = a_gang("", "import time; time.sleep(1)", "raise SystemExit(75)")
    ranks.wait((0, 75), lambda: False, grace=60)
    assert ranks.ended == {0: 0, 1: 0, 2: 75}


def test_a_request_to_stop_is_passed_on_and_waited_for() -> None:
    ranks = a_gang(ORDERLY, ORDERLY)
    ranks.wait((0, 75), lambda: True, grace=60)
    assert ranks.ended == {0: 75, 1: 75}


def test_grace_ends() -> None:
    ranks = a_gang(STUBBORN)
    ranks.wait((0, 75), lambda: True, grace=0.3)
    assert (ranks.ended, ranks.ended_by_us) == ({0: -signal.SIGKILL}, {0})
