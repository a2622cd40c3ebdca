"""Reading rows from CSV, JSON, JSON Lines and Parquet files and from the hub.

Everything that can be wrong with a file is said with the field, the row, and what would work.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.job import DataFormat, Source
from finetune_trainer.data import hub
from finetune_trainer.data.rows import Row, as_text
from finetune_trainer.data.uri import Places, is_hub, local_path
from finetune_trainer.errors import ConfigError, DataError, nearest
from finetune_trainer.files import sha256_of

ENDINGS = {
    ".csv": DataFormat.CSV,
    ".tsv": DataFormat.CSV,
    ".json": DataFormat.JSON,
    ".jsonl": DataFormat.JSON_LINES,
    ".ndjson": DataFormat.JSON_LINES,
    ".parquet": DataFormat.PARQUET,
}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Roles:
    """Which values a task needs of each row, and in which column each stands."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def columns(self, names: Mapping[str, str]) -> dict[str, str]:
        """Role to column for every role that the manifest or the task asks for."""
        for role in names:
            if role not in self.required + self.optional:
                hint = nearest(role, self.required + self.optional, "roles of this task")
                raise ConfigError("UnknownRole", f"spec.dataset.columns.{role}: this task has no such role", hint)
        wanted = [*self.required, *(role for role in self.optional if role in names)]
        return {role: names.get(role, role) for role in wanted}


@dataclass(frozen=True)
class Loaded:
    """The rows of one source, and what identifies its content."""

    rows: list[Row]
    uri: str
    digest: str
    revision: str | None = None


def load_source(source: Source, columns: Mapping[str, str], places: Places, field_path: str) -> Loaded:
    """Read one source. Raises ConfigError, DataError or Unavailable, naming `field_path` and the row."""
    if is_hub(source.uri):
        table = hub.load_table(source, f"{field_path}.uri")
        rows = _rows(table.records, columns, source.uri, table.columns)
        return Loaded(rows, source.uri, table.digest, table.revision)
    path = local_path(source.uri, places, f"{field_path}.uri")
    if not path.is_file():
        raise ConfigError("NotAFile", f"{field_path}.uri: {source.uri} is a folder", "name one file in it")
    try:
        rows = _rows(_records(path, _format(source, path, field_path), source.uri), columns, source.uri)
    except PermissionError as error:
        hint = "make it readable for the user that the trainer runs as"
        raise ConfigError("NotReadable", f"{field_path}.uri: {source.uri} may not be read", hint) from error
    return Loaded(rows, source.uri, sha256_of(path))


def _format(source: Source, path: Path, field_path: str) -> DataFormat:
    if source.format is not DataFormat.AUTO:
        return source.format
    if (known := ENDINGS.get(path.suffix.lower())) is None:
        message = f"{field_path}.uri: cannot tell the format of {source.uri} from its ending"
        raise ConfigError("UnknownFormat", message, f"set {field_path}.format to Csv, Json, JsonLines or Parquet")
    return known


def _rows(
    records: Iterator[Record], columns: Mapping[str, str], name: str, known: Sequence[str] | None = None
) -> list[Row]:
    rows = []
    for number, record in enumerate(records, start=1):
        if number == 1:
            _check_columns(known or list(record), columns, name)
        rows.append(Row(_values(record, columns, f"row {number} of {name}"), name, number))
    if not rows:
        raise DataError("NoRows", f"{name} has no rows", "name a file with rows")
    return rows


def _check_columns(known: Sequence[str], columns: Mapping[str, str], name: str) -> None:
    for role, column in columns.items():
        if column not in known:
            message = f"spec.dataset.columns.{role}: {name} has no column {column!r}"
            raise ConfigError("ColumnNotFound", message, nearest(column, known, "columns there are"))


def _values(record: Record, columns: Mapping[str, str], place: str) -> dict[str, str]:
    values = {}
    for role, column in columns.items():
        value = record.get(column)
        if isinstance(value, list | dict):
            raise DataError("NotText", f"{place}: column {column!r} holds a {type(value).__name__}, not one value")
        text = as_text(value)
        if text is None:
            hint = "fill the cell or remove the row"
            raise DataError("EmptyValue", f"{place}: column {column!r} ({role}) is empty", hint)
        values[role] = text
    return values


def _records(path: Path, kind: DataFormat, name: str) -> Iterator[Record]:
    readers = {
        DataFormat.CSV: _read_csv,
        DataFormat.JSON: _read_json,
        DataFormat.JSON_LINES: _read_json_lines,
        DataFormat.PARQUET: _read_parquet,
    }
    try:
        yield from readers[kind](path, name)
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
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            number += 1
            place = f"row {number} (line {line_number}) of {name}"
            try:
                yield _object(json.loads(line), place)
            except json.JSONDecodeError as error:
                raise DataError("BrokenJson", f"{place} is not JSON: {error.msg}") from error


def _object(record: Any, place: str) -> Record:
    if not isinstance(record, dict):
        raise DataError("BrokenJson", f"{place} is a {type(record).__name__}, not an object")
    return record


def _read_parquet(path: Path, name: str) -> Iterator[Record]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError("BrokenParquet", f"{name} is not Parquet: {error}") from error
