"""Why an attempt failed follows from how its ranks ended: the cause decides, not who noticed it."""

from __future__ import annotations

import pytest

from finetune_api.progress import Failure
from finetune_trainer.errors import CodeError, ConfigError, Preempted, Unavailable
from finetune_trainer.verdict import RankEnd, Surroundings, verdict

BUG = CodeError("KeyError", "'x' (loop.py:1)").failure(1)
BAD = ConfigError("ModelUnreadable", "its weights do not load").failure(0)
LOST = Unavailable("PeerLost", "another process of the run vanished").failure(0)
SAVED = Preempted("Preempted", "asked to stop; saved at step 5 of 9").failure(0)
CALM = Surroundings()
STOPPED = Surroundings(stop_requested=True)
RESUMABLE = Surroundings(stop_requested=True, has_checkpoint=True)
NO_MEMORY = Surroundings(memory_kills=1)


def end(rank: int, code: int, failure: Failure | None = None, ended_by_us: bool = False) -> RankEnd:
    return RankEnd(rank, code, failure, ended_by_us)


@pytest.mark.parametrize(
    ("ends", "around", "expected"),
    [
        pytest.param([end(0, 0), end(1, 0)], CALM, None, id="done"),
        pytest.param([end(0, 70, BUG)], CALM, ("CodeError", "KeyError", 70), id="a bug"),
        pytest.param([end(0, 69, LOST), end(1, 70, BUG)], CALM, ("CodeError", "KeyError", 70), id="cause after echo"),
        pytest.param([end(1, 78, BAD), end(0, 70, BUG)], CALM, ("ConfigError", "ModelUnreadable", 78), id="the first"),
        pytest.param([end(0, 69, LOST)], CALM, ("Unavailable", "PeerLost", 69), id="a peer elsewhere vanished"),
        pytest.param([end(0, 69, LOST)], RESUMABLE, ("Preempted", "Preempted", 75), id="peer lost while stopping"),
        pytest.param([end(0, 69, LOST)], STOPPED, ("Unavailable", "PeerLost", 69), id="the same, nothing saved"),
        pytest.param([end(1, 75, SAVED), end(0, 75, SAVED)], STOPPED, ("Preempted", "Preempted", 75), id="saved"),
        pytest.param([end(0, 75, SAVED), end(1, -9, None, True)], CALM, ("Preempted", "Preempted", 75), id="one slow"),
        pytest.param([end(0, -15)], STOPPED, ("Preempted", "Preempted", 75), id="stopped while it prepared"),
        pytest.param([end(0, -9, None, True)], STOPPED, ("Preempted", "Preempted", 75), id="grace is over"),
        pytest.param([end(0, -15)], CALM, ("Unavailable", "RankKilled", 69), id="terminated by someone"),
        pytest.param([end(1, -9), end(0, 69, LOST)], CALM, ("Unavailable", "RankKilled", 69), id="killed by someone"),
        pytest.param(
            [end(1, -9), end(0, 69, LOST)], NO_MEMORY, ("OutOfMemoryHost", "OutOfMemoryHost", 137), id="memory"
        ),
        pytest.param([end(0, -11)], CALM, ("CodeError", "SIGSEGV", 70), id="crash"),
        pytest.param([end(0, 3)], CALM, ("CodeError", "RankExited", 70), id="no word"),
    ],
)
def test_verdict(ends: list[RankEnd], around: Surroundings, expected: tuple[str, str, int] | None) -> None:
    failure = verdict(ends, around)
    assert (failure and (failure.class_.value, failure.reason, failure.exit_code)) == expected


def test_the_rank_is_named() -> None:
    failure = verdict([end(3, -11), end(0, 69, LOST)], CALM)
    assert failure is not None
    assert (failure.rank, failure.message) == (3, "rank 3 was ended by SIGSEGV")
