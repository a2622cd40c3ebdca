"""Telling a run that stands still from one that is slow, and saying who stopped first.

Ranks work in lockstep, so one that stops stops all: a pod hangs when none of its ranks shows a sign of work. In several
pods every supervisor comes to that at about the same time. The pod of the culprit, whose rank does not just wait for
its peers, ends at once; the others end a little later, so that the first pod to end is the one with the cause.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune_api.progress import MAX_LOG_TAIL, Failure
from finetune_trainer import heartbeat, stacks
from finetune_trainer.errors import Hang
from finetune_trainer.heartbeat import PULSE, Beat
from finetune_trainer.report.snapshot import timestamp

log = logging.getLogger(__name__)
HANG_DELAY = 5.0
"""Seconds that a pod whose ranks only wait gives the pod with the cause to end first."""
PATIENCE_WHILE_PREPARING = 2
"""So many times the time, for ranks that wait before the first step: peers may have more to download or to encode."""
LOOK_EVERY = 1.0
LONGEST_LOOK = 10.0
CPU_SECONDS = 0.2
"""Processor time that is a sign of work before the first step and after the last: reading, hashing, drawing take it."""
NAMED = 4
"""Ranks that a message names."""
RAISE = "raise spec.runPolicy.hangTimeoutSeconds if it may take so long"


@dataclass
class Silence:
    """How long there was no sign of work. Only time in which we looked counts: a machine that slept does not hang."""

    sign: object = None
    seconds: float = 0.0
    looked: float | None = None

    def look(self, sign: object, now: float) -> float:
        """The seconds for which `sign` has been what it is."""
        passed = 0.0 if self.looked is None else min(now - self.looked, LONGEST_LOOK)
        self.seconds = self.seconds + passed if sign == self.sign else 0.0
        self.sign, self.looked = sign, now
        return self.seconds


def allowed(beats: Sequence[Beat], timeout: float, alone: bool) -> float:
    """Seconds of silence after which ranks with these last beats hang; `alone` if no other pod takes part."""
    if alone or not all(beat.waiting for beat in beats):
        return timeout
    if all(beat.step is None for beat in beats):
        return PATIENCE_WHILE_PREPARING * timeout
    return timeout + HANG_DELAY


class Watch:
    """Looks after the ranks of this pod; `failure` says what stood still, once it did."""

    def __init__(self, scratch: Path, ranks: Sequence[int], timeout: float | None, alone: bool) -> None:
        self.failure: Failure | None = None
        self._scratch, self._ranks, self._timeout, self._alone = scratch, ranks, timeout, alone
        self._path = heartbeat.prepare(scratch, len(ranks))
        self._silence = Silence()
        self._counted: dict[int, float] = {}
        self._stacks: dict[int, str] = {}

    def hangs(self, running: Mapping[int, int]) -> bool:
        """Whether the running ranks, process ids by rank, stand still; shows where, as soon as they do."""
        now = time.monotonic()
        if self._timeout is None or now - (self._silence.looked or 0.0) < min(LOOK_EVERY, self._timeout / 10):
            return False
        everyone = zip(self._ranks, heartbeat.read(self._path), strict=True)
        beats = {rank: beat for rank, beat in everyone if rank in running}
        silent = self._silence.look((beats, self._processor_time(beats, running)), now)
        if silent < self._timeout:
            self._stacks = {}
            return False
        if not self._stacks:
            log.error("no sign of work for %.0f s; where every rank stands:", silent)
            self._stacks = stacks.collect(self._scratch, running)
            stacks.show(self._stacks)
        if silent < allowed(list(beats.values()), self._timeout, self._alone):
            return False
        self.failure = describe(beats, self._stacks, silent, now, time.time())
        return True

    def _processor_time(self, beats: Mapping[int, Beat], running: Mapping[int, int]) -> dict[int, float]:
        """Of each rank that prepares or concludes, in seconds; what is less than a sign of work does not change it."""
        for rank, beat in beats.items():
            if beat.apart and not beat.waiting:
                seconds = _cpu_seconds(running[rank])
                if seconds - self._counted.get(rank, 0.0) > CPU_SECONDS:
                    self._counted[rank] = seconds
        return dict(self._counted)


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process with all its threads; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def describe(
    beats: Mapping[int, Beat], stacks_of: Mapping[int, str], silent: float, now: float, wall: float
) -> Failure:
    """The end of ranks that stood still: for how long, since which step, and which of them stopped first.

    `now` and `wall` are the same moment by the clock of the beats and in seconds since 1970.
    """
    working = {rank: beat for rank, beat in beats.items() if not beat.waiting}
    stopped = sorted(working or beats, key=lambda rank: (beats[rank].time, rank))
    culprit, newest = stopped[0], max(beat.time for beat in beats.values())
    named = [_where(rank, beats[rank], stacks_of.get(rank, ""), now, wall) for rank in stopped[:NAMED]]
    more = [f"{len(stopped) - NAMED} more"] if len(stopped) > NAMED else []
    others = len(beats) - len(stopped)
    waiting = [f"{others} other{'s' if others > 1 else ''} of this pod waited for peers"] if others else []
    message = f"no sign of work for {silent:.0f} s, since {_moment(newest, now, wall)}: "
    hint = f"the log has the stack of every rank; see what rank {culprit} was doing, and {RAISE}"
    if not working:
        hint = f"all ranks of this pod waited for peers; see the other pods of this attempt, and {RAISE}"
    failure = Hang("Hang", message + "; ".join(named + more + waiting), hint).failure(culprit)
    return failure.model_copy(update={"log_tail": stacks.traceback(stacks_of.get(culprit, ""))[-MAX_LOG_TAIL:] or None})


def _where(rank: int, beat: Beat, stack: str, now: float, wall: float) -> str:
    doing = "waited for peers" if beat.waiting else "stood still"
    since = "while it prepared" if beat.step is None else f"after step {beat.step}"
    at = stacks.place(stack)
    line = f" at {at}" if at else ""
    return f"rank {rank} {doing} {since}{line} (last sign {_moment(beat.time, now, wall)})"


def _moment(time_of_beat: float, now: float, wall: float) -> str:
    return timestamp(wall - (now - time_of_beat))


@contextmanager
def watched(timeout: float | None, give_up: Callable[[Hang], None]) -> Iterator[None]:
    """In this block a thread looks whether this very process still works, and otherwise calls `give_up`.

    Signs of work are beats, processor time, and bytes that are written.
    """
    if timeout is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_look_after, args=(timeout, over, give_up), name="hang", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look_after(timeout: float, over: threading.Event, give_up: Callable[[Hang], None]) -> None:
    silence, counted = Silence(), (0, 0.0, 0)
    while not over.wait(min(LOOK_EVERY, timeout / 10)):
        signs = (PULSE.count, time.process_time() - time.thread_time(), _bytes_written())
        if (signs[0], signs[2]) != (counted[0], counted[2]) or signs[1] - counted[1] > CPU_SECONDS:
            counted = signs
        silent = silence.look(counted, time.monotonic())
        if silent >= timeout:
            log.error("no sign of work for %.0f s; where the supervisor stands:", silent)
            stacks.show_own()
            message = f"no sign of work for {silent:.0f} s while model and data were read and checked"
            give_up(Hang("Hang", message, f"the log has the stack; see whether a volume or a store hangs, and {RAISE}"))


def _bytes_written() -> int:
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar:")), 0)
