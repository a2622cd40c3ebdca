"""The rows of a run on disk: written once, while the sources are read, and opened by every process of the node."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
from numpy.typing import NDArray

from finetune_trainer.data.packing import pack, unpack
from finetune_trainer.data.records import Records, RecordWriter
from finetune_trainer.data.rows import HASH_BYTES, PlaceArray, Row, hash_of
from finetune_trainer.errors import Unavailable
from finetune_trainer.files import write_json
from finetune_trainer.storage import writing

ROWS, HASHES, SOURCES = "rows", "hashes.npy", "sources.json"


def temporary_folder() -> Path:
    """A folder that is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="finetune-rows-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def stored(folder: Path) -> Iterator[None]:
    """In this block an error of the disk says where there is too little space."""
    try:
        with writing("the rows", folder, "give the folder that TMPDIR names space for a copy of them"):
            yield
    except OSError as error:
        message = f"cannot keep the rows in {folder}: {error.strerror or error}"
        raise Unavailable("StoreUnavailable", message, "see the folder that TMPDIR names") from error


class TableWriter:
    """Takes rows one after the other; `close` gives the table."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with stored(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._records = RecordWriter(folder / ROWS)
        self._hashes = bytearray()
        self._sources: list[tuple[int, str, float]] = []

    def add(self, row: Row) -> None:
        """Rows of one source and weight stand together."""
        if not self._sources or self._sources[-1][1:] != (row.source, row.weight):
            self._sources.append((len(self._records), row.source, row.weight))
        self._hashes += hash_of(row)
        packed = pack([row.number, row.values, row.extra] if row.extra else [row.number, row.values])
        with stored(self._folder):
            self._records.add(packed)

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> DiskTable:
        hashes = numpy.frombuffer(self._hashes, dtype=numpy.uint8).reshape(-1, HASH_BYTES)
        with stored(self._folder):
            self._records.close()
            numpy.save(self._folder / HASHES, hashes)
            write_json(self._folder / SOURCES, self._sources, durable=False)
        return DiskTable(self._folder)


class DiskTable:
    """The rows that a TableWriter left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._records = Records(folder / ROWS)
        self._hashes: NDArray[numpy.uint8] = numpy.load(folder / HASHES, mmap_mode="r")
        sources = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
        self._firsts = numpy.array([first for first, _, _ in sources], dtype=numpy.int64)
        self._sources: list[tuple[str, float]] = [(source, weight) for _, source, weight in sources]

    def __len__(self) -> int:
        return len(self._records)

    def read(self, places: PlaceArray) -> list[Row]:
        found = zip(self._records.read(places), self._source_of(places).tolist(), strict=True)
        return [self._row(record, source) for record, source in found]

    def _row(self, record: bytes, number: int) -> Row:
        number_there, values, *extra = unpack(record)
        source, weight = self._sources[number]
        return Row(values, source, number_there, weight, *extra)

    def weights(self, places: PlaceArray) -> NDArray[numpy.float64]:
        return numpy.array([weight for _, weight in self._sources])[self._source_of(places)]

    def hashes(self, places: PlaceArray) -> NDArray[numpy.uint8]:
        return self._hashes[places]

    def _source_of(self, places: PlaceArray) -> NDArray[numpy.int64]:
        return numpy.searchsorted(self._firsts, places, side="right") - 1
