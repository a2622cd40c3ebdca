"""Signs of work: every rank leaves the time of its last one where its supervisor looks, for the price of a system call.

Whatever may take long calls `beat` as it goes on: each step, micro-batch, batch of an evaluation, chunk of rows. Where
nobody looks, as in `finetune predict`, that does nothing. Standard library only: ranks beat before torch is there.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

BEATS = "beats"
LAYOUT = struct.Struct("=dq??")
NO_STEP = -1


@dataclass(frozen=True)
class Beat:
    """A sign of work: when, in seconds of the machine's monotonic clock, after how many steps, None before the first.

    `waiting` says that from then on the rank has been waiting for its peers, `apart` that it prepares or concludes: it
    takes no part in the steps that all do together, and may need its time.
    """

    time: float
    step: int | None = None
    waiting: bool = False
    apart: bool = False

    def to_bytes(self) -> bytes:
        return LAYOUT.pack(self.time, NO_STEP if self.step is None else self.step, self.waiting, self.apart)

    @classmethod
    def from_bytes(cls, data: bytes) -> Beat:
        seconds, step, waiting, apart = LAYOUT.unpack(data)
        return cls(seconds, None if step == NO_STEP else step, waiting, apart)


def prepare(scratch: Path, ranks: int) -> Path:
    """The file in which `ranks` ranks of this pod leave their beats; each has one, of now."""
    path = scratch / BEATS
    path.write_bytes(Beat(time.monotonic(), apart=True).to_bytes() * ranks)
    return path


def read(path: Path) -> list[Beat]:
    """The last beat of each rank of this pod."""
    data = path.read_bytes()
    return [Beat.from_bytes(data[start : start + LAYOUT.size]) for start in range(0, len(data), LAYOUT.size)]


class Pulse:
    """The beats of this process. `count` grows with each; they are written down once a place is known."""

    def __init__(self) -> None:
        self.last = Beat(0.0)
        self.count = 0
        self._file: int | None = None
        self._offset = 0

    def join(self, path: Path, place: int) -> None:
        """From now on leave the beats in the file that `prepare` made, as rank number `place` of this pod."""
        self._file, self._offset = os.open(path, os.O_WRONLY), place * LAYOUT.size
        self.beat(Beat(0.0, apart=True))

    def beat(self, beat: Beat) -> None:
        self.last = replace(beat, time=time.monotonic())
        self.count += 1
        if self._file is not None:
            os.pwrite(self._file, self.last.to_bytes(), self._offset)


PULSE = Pulse()


def beat(step: int | None = None) -> None:
    """A sign of work; `step` once so many optimizer steps are done, and until `conclude` all go on in step."""
    PULSE.beat(PULSE.last if step is None else replace(PULSE.last, step=step, apart=False))


def conclude() -> None:
    """From now on this process does what takes no part in steps, such as to write what the run leaves."""
    PULSE.beat(replace(PULSE.last, apart=True))


@contextmanager
def waiting() -> Iterator[None]:
    """In this block only peers can bring us on, so that standing still here is not our doing."""
    PULSE.beat(replace(PULSE.last, waiting=True))
    try:
        yield
    finally:
        PULSE.beat(replace(PULSE.last, waiting=False))
