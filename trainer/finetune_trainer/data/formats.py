"""Reading data files: CSV, JSON, JSON Lines, Parquet, Arrow and plain text become records.

Everything that can be wrong with a file is said with its row and what would work.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_api.dataset import DataFormat
from finetune_trainer.data.rows import Record, Table
from finetune_trainer.errors import DataError
from finetune_trainer.files import sha256_of

ENDINGS: Mapping[str, DataFormat] = {
    ".csv": DataFormat.CSV,
    ".tsv": DataFormat.CSV,
    ".json": DataFormat.JSON,
    ".jsonl": DataFormat.JSON_LINES,
    ".ndjson": DataFormat.JSON_LINES,
    ".parquet": DataFormat.PARQUET,
    ".arrow": DataFormat.ARROW,
    ".feather": DataFormat.ARROW,
    ".txt": DataFormat.TEXT,
}
TEXT_COLUMN = "text"
BATCH = 256
"""Rows that become Python values at once: of images a small number is much already."""
ARROW_FILE = b"ARROW1"
"""The first bytes of Arrow's file layout; a stream has none of its own."""


def read_file(path: Path, kind: DataFormat, name: str) -> Table:
    """The records of one file. Raises DataError, while they are read, if it is not what `kind` says."""
    columns = [TEXT_COLUMN] if kind is DataFormat.TEXT else None
    return Table(_records(path, kind, name), path.parent, columns, sha256_of(path))


def _records(path: Path, kind: DataFormat, name: str) -> Iterator[Record]:
    try:
        yield from READERS[kind](path, name)
    except UnicodeDecodeError as error:
        raise DataError("NotUtf8", f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error


def _read_csv(path: Path, name: str) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = next(reader, [])
        number = 0
        for cells in reader:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                message = f"row {number} of {name} has {len(cells)} cells, the header has {len(header)}"
                raise DataError("BrokenRow", message, f"see line {reader.line_num}: quote cells that hold a delimiter")
            yield dict(zip(header, cells, strict=True))


def _read_json(path: Path, name: str) -> Iterator[Record]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError("BrokenJson", f"{name} is not JSON: {error.msg} at line {error.lineno}") from error
    if not isinstance(value, list):
        raise DataError("BrokenJson", f"{name} is not a list of objects", "with an object a line, use JsonLines")
    for number, record in enumerate(value, start=1):
        yield _object(record, f"row {number} of {name}")


def _read_json_lines(path: Path, name: str) -> Iterator[Record]:
    for number, (line_number, line) in enumerate(_lines(path), start=1):
        place = f"row {number} (line {line_number}) of {name}"
        try:
            yield _object(json.loads(line), place)
        except json.JSONDecodeError as error:
            raise DataError("BrokenJson", f"{place} is not JSON: {error.msg}") from error


def _object(record: Any, place: str) -> Record:
    if not isinstance(record, dict):
        raise DataError("BrokenJson", f"{place} is a {type(record).__name__}, not an object")
    return record


def _read_text(path: Path, name: str) -> Iterator[Record]:  # noqa: ARG001
    for _, line in _lines(path):
        yield {TEXT_COLUMN: line.rstrip("\r\n")}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _read_parquet(path: Path, name: str) -> Iterator[Record]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError("BrokenParquet", f"{name} is not Parquet: {error}") from error


def _read_arrow(path: Path, name: str) -> Iterator[Record]:
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            for batch in _arrow_batches(source):
                for start in range(0, batch.num_rows, BATCH):
                    yield from batch.slice(start, BATCH).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError("BrokenArrow", f"{name} is not Arrow: {error}") from error


def _arrow_batches(source: Any) -> Iterator[Any]:
    """The record batches of Arrow's file layout or of a stream."""
    from pyarrow import ipc

    is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
    source.seek(0)
    if not is_file:
        yield from ipc.open_stream(source)
        return
    reader = ipc.open_file(source)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


READERS: Mapping[DataFormat, Callable[[Path, str], Iterator[Record]]] = {
    DataFormat.CSV: _read_csv,
    DataFormat.JSON: _read_json,
    DataFormat.JSON_LINES: _read_json_lines,
    DataFormat.PARQUET: _read_parquet,
    DataFormat.ARROW: _read_arrow,
    DataFormat.TEXT: _read_text,
}
