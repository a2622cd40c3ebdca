"""Many byte strings on disk: one after the other in a file, and where each of them begins in another.

Only what is asked for is read, so that millions of records cost a process little more than a mapped array.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import numpy
from numpy.typing import NDArray

from finetune_trainer.data.rows import PlaceArray

SPAN = 8 << 20
"""Bytes that are read at once where the records lie close together."""
BUFFER = 1 << 20


class RecordWriter:
    """Writes `path`.bin, and `path`.npy when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = path.with_suffix(".bin").open("wb", buffering=BUFFER)
        self._starts = array("q", [0])

    def add(self, record: bytes) -> None:
        self._data.write(record)
        self._starts.append(self._starts[-1] + len(record))

    def close(self) -> None:
        self._data.close()
        numpy.save(self._path.with_suffix(".npy"), numpy.frombuffer(self._starts, dtype=numpy.int64))

    def __len__(self) -> int:
        return len(self._starts) - 1


class Records:
    """The records that a RecordWriter left. Processes that fork share it: a read has no position."""

    def __init__(self, path: Path) -> None:
        self._data = path.with_suffix(".bin").open("rb", buffering=0)
        self._starts: NDArray[numpy.int64] = numpy.load(path.with_suffix(".npy"), mmap_mode="r")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def one(self, place: int) -> bytes:
        start, end = self._starts[place : place + 2].tolist()
        return os.pread(self._data.fileno(), end - start, start)

    def read(self, places: PlaceArray) -> list[bytes]:
        """The records at these places, in this order; in one go if they lie close together."""
        if not len(places):
            return []
        first, last = int(places.min()), int(places.max()) + 1
        start, end = int(self._starts[first]), int(self._starts[last])
        if end - start > SPAN:
            return [self.one(place) for place in places.tolist()]
        data = os.pread(self._data.fileno(), end - start, start)
        starts, ends = (self._starts[places] - start).tolist(), (self._starts[places + 1] - start).tolist()
        return [data[begin:stop] for begin, stop in zip(starts, ends, strict=True)]
