"""A row as a source gives it and as the tasks see it, and many of them, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, overload

import numpy
from numpy.typing import ArrayLike, NDArray

from finetune_trainer.data.media import plain

Record = Mapping[str, Any]
"""Cells by column."""
PlaceArray = NDArray[numpy.int64]
"""Numbers of rows in a table: what the stages of preparation hand on instead of rows."""
CHUNK = 1024
"""Rows that an iteration reads at once."""
MANY = 1 << 16
"""Rows whose hashes are read at once."""
HASH_BYTES = 16


@dataclass(frozen=True)
class Row:
    """One row: role to value (see `columns`), where it stands, for messages to people, and how much it counts.

    `extra` has the cells of columns that play no role but that something else asked for, such as a group to split by.
    """

    values: Mapping[str, Any]
    source: str
    number: int
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"row {self.number} of {self.source}"


def hash_of(row: Row) -> bytes:
    """What a row's values are, wherever it stands: of an image or a sound by its bytes and its name."""
    text = json.dumps(plain(row.values), sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()


class RowTable(Protocol):
    """Where rows lie, in memory or on disk."""

    def __len__(self) -> int: ...

    def read(self, places: PlaceArray) -> list[Row]:
        """The rows at these places, in this order."""

    def weights(self, places: PlaceArray) -> NDArray[numpy.float64]:
        """How much each of them counts."""

    def hashes(self, places: PlaceArray) -> NDArray[numpy.uint8]:
        """What the values of each are, (rows, HASH_BYTES); see `hash_of`."""


class MemoryTable:
    """Rows in memory: of `finetune predict`, and of tests."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, places: PlaceArray) -> list[Row]:
        return [self._rows[place] for place in places]

    def weights(self, places: PlaceArray) -> NDArray[numpy.float64]:
        return numpy.array([self._rows[place].weight for place in places], dtype=numpy.float64)

    def hashes(self, places: PlaceArray) -> NDArray[numpy.uint8]:
        found = b"".join(hash_of(self._rows[place]) for place in places)
        return numpy.frombuffer(found, dtype=numpy.uint8).reshape(-1, HASH_BYTES)


class Rows(Sequence[Row]):
    """Rows of a table by their places in it: a view that costs one number a row.

    Going through them reads a chunk at a time and keeps none; `rows[3]` reads one.
    """

    def __init__(self, table: RowTable, places: ArrayLike | None = None) -> None:
        self.table = table
        self.places: PlaceArray = numpy.asarray(range(len(table)) if places is None else places, dtype=numpy.int64)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Rows that are in memory."""
        return rows if isinstance(rows, Rows) else cls(MemoryTable(rows))

    def take(self, places: ArrayLike) -> Rows:
        """Some of these rows; `places` counts among these, not in the table. A mask of booleans will do, too."""
        chosen = numpy.asarray(places)
        return Rows(self.table, self.places[chosen if chosen.size else chosen.astype(numpy.int64)])

    def chunks(self, size: int = CHUNK) -> Iterator[list[Row]]:
        """All rows in their order, `size` at a time."""
        for start in range(0, len(self.places), size):
            yield self.table.read(self.places[start : start + size])

    @property
    def weights(self) -> NDArray[numpy.float64]:
        """How much each row counts."""
        return self.table.weights(self.places)

    @property
    def digest(self) -> str:
        """Hash over the values of all rows in their order."""
        digest = hashlib.sha256()
        for start in range(0, len(self.places), MANY):
            digest.update(self.table.hashes(self.places[start : start + MANY]).tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Row]:
        for chunk in self.chunks():
            yield from chunk

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return Rows(self.table, self.places[index])
        return self.table.read(self.places[[index]])[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Table:
    """What a source gives: `columns` is None where only the first record tells them.

    Paths in cells are relative to `folder`. `digest` identifies the content where it is known before it is read.
    """

    records: Iterator[Record]
    folder: Path
    columns: Sequence[str] | None = None
    digest: str | None = None
    revision: str | None = None
