"""How an attempt ended, from how its ranks ended: pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.progress import Failure, FailureClass
from finetune_trainer.errors import CodeError, OutOfHostMemory, Preempted, RunError, Unavailable

PEER_LOST = "PeerLost"
NO_MEMORY = (
    "ask for more spec.resources.memory, or for less: a smaller spec.training.microBatchSize, fewer "
    "spec.resources.processesPerNode"
)


@dataclass(frozen=True)
class RankEnd:
    """How one rank of this pod ended: exit code, or minus the signal; and what it said itself."""

    rank: int
    code: int
    failure: Failure | None = None
    ended_by_us: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What else is known: whether we were asked to stop, can resume, and whether memory ran out."""

    stop_requested: bool = False
    has_checkpoint: bool = False
    memory_kills: int = 0


def verdict(ends: Sequence[RankEnd], around: Surroundings) -> Failure | None:
    """Why the attempt failed, or None if it is done. `ends` is in the order in which the ranks ended.

    The first rank with a cause of its own decides. Ranks that only lost a peer, were told to stop or were ended by us
    say nothing about the cause.
    """
    failed = [end for end in ends if end.code != 0]
    if not failed:
        return None
    failures = [_failure(end, around) for end in failed if not end.ended_by_us]
    for failure in failures:
        if failure.reason != PEER_LOST and failure.class_ is not FailureClass.PREEMPTED:
            return failure
    stopped = [failure for failure in failures if failure.class_ is FailureClass.PREEMPTED]
    if stopped:
        return stopped[0]
    if around.stop_requested and (around.has_checkpoint or not failures):
        return _stopped(around).failure()
    return failures[0] if failures else _stopped(around).failure()


def _failure(end: RankEnd, around: Surroundings) -> Failure:
    if end.failure is not None:
        return end.failure
    return _unsaid(end, around).failure(end.rank)


def _unsaid(end: RankEnd, around: Surroundings) -> RunError:
    """What the end of a rank means that left no word of its own."""
    if end.code >= 0:
        return CodeError("RankExited", f"rank {end.rank} ended with exit code {end.code}", "see its log")
    name = signal.Signals(-end.code).name
    if name == "SIGTERM" and around.stop_requested:
        return _stopped(around)
    if name == "SIGKILL" and around.memory_kills:
        message = f"the kernel killed rank {end.rank} because the container's memory ran out"
        return OutOfHostMemory("OutOfMemoryHost", message, NO_MEMORY)
    if name in {"SIGKILL", "SIGTERM"}:
        hint = "see who sends signals here, and whether the machine's memory ran out"
        return Unavailable("RankKilled", f"rank {end.rank} was ended by {name} from outside", hint)
    hint = "raise spec.resources.sharedMemory" if name == "SIGBUS" else "see its log; a native library crashed"
    return CodeError(name, f"rank {end.rank} was ended by {name}", hint)


def _stopped(around: Surroundings) -> Preempted:
    if around.has_checkpoint:
        return Preempted("Preempted", "asked to stop", "run it again to go on from the last checkpoint")
    return Preempted("Preempted", "asked to stop before anything was saved", "run it again to start")
