"""Encoded rows that are read one at a time, from disk or as they are wanted, instead of lying in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy
from numpy.typing import NDArray

from finetune_trainer.data.packing import pack, unpack
from finetune_trainer.data.records import Records, RecordWriter
from finetune_trainer.data.rows import CHUNK, Row, Rows

if TYPE_CHECKING:
    from finetune_trainer.tasks.base import TaskKind

Example = Mapping[str, Any]
Sizes = NDArray[numpy.int64]
EXAMPLES, SIZES = "examples", "sizes.npy"


class ExampleWriter:
    """Puts examples into a folder, with the size of each; what they share with their rows is left to those."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = RecordWriter(folder / EXAMPLES)
        self._sizes: list[Sizes] = []

    def add(self, task: TaskKind, rows: Sequence[Row], examples: Sequence[Example]) -> None:
        for row, example in zip(rows, examples, strict=True):
            self._records.add(pack(example, row))
        self._sizes.append(numpy.fromiter(map(task.size, examples), numpy.int64, len(examples)))

    def close(self) -> None:
        self._records.close()
        numpy.save(self._folder / SIZES, numpy.concatenate([numpy.empty(0, numpy.int64), *self._sizes]))


class LazyExamples(Sequence[Example]):
    """Examples that are made as they are read."""

    @abstractmethod
    def at(self, place: int) -> Example:
        """The example with this number, counted from 0."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.at(range(len(self))[index])


class StoredExamples(LazyExamples):
    """The examples that an ExampleWriter left in a folder; `rows` are those that they were made of."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        self._records = Records(folder / EXAMPLES)
        self._rows = rows
        self.sizes: Sizes = numpy.load(folder / SIZES, mmap_mode="r")
        if not len(self._records) == len(self.sizes) == len(rows):
            raise ValueError(f"{folder} holds {len(self._records)} examples of {len(rows)} rows")

    def __len__(self) -> int:
        return len(self.sizes)

    def at(self, place: int) -> Example:
        return self._example(self._records.one(place), place)

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), CHUNK):
            places = numpy.arange(start, min(start + CHUNK, len(self)))
            yield from map(self._example, self._records.read(places), places.tolist())

    def _example(self, record: bytes, place: int) -> Example:
        found: Example = unpack(record, lambda: self._rows[place])
        return found


class Changed(LazyExamples):
    """Examples that are changed as they are read: `change` gets the number of each, and the example.

    `resized` says that their sizes change with them.
    """

    def __init__(
        self, examples: Sequence[Example], change: Callable[[int, Example], Example], resized: bool = False
    ) -> None:
        self._examples, self._change = examples, change
        if not resized and hasattr(examples, "sizes"):
            self.sizes: Sizes = examples.sizes

    def __len__(self) -> int:
        return len(self._examples)

    def at(self, place: int) -> Example:
        return self._change(place, self._examples[place])

    def __iter__(self) -> Iterator[Example]:
        return map(self._change, range(len(self)), self._examples)


def sizes_of(task: TaskKind, examples: Sequence[Example]) -> Sizes:
    """What each example costs beside others; known without a look at them where they lie on disk."""
    known: Sizes | None = getattr(examples, "sizes", None)
    return known if known is not None else numpy.fromiter(map(task.size, examples), numpy.int64, len(examples))
