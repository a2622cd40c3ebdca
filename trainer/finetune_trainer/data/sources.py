"""From a source of the manifest to rows with a value for every role that the task reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.dataset import DataFormat, Source
from finetune_trainer.data import folders, formats, hub
from finetune_trainer.data.clean import Cleaner
from finetune_trainer.data.columns import Roles, Where
from finetune_trainer.data.extra import check_columns
from finetune_trainer.data.media import plain
from finetune_trainer.data.rows import Record, Row, Table
from finetune_trainer.data.uri import Places, is_hub, local_path
from finetune_trainer.errors import ConfigError, DataError

SPLIT = "train"
"""The split that is read where the manifest names none."""


@dataclass(frozen=True)
class Loaded:
    """The rows of one source, and what identifies its content."""

    rows: list[Row]
    uri: str
    digest: str
    revision: str | None = None


def load_source(
    source: Source,
    roles: Roles,
    names: Mapping[str, str],
    places: Places,
    field_path: str,
    predicting: bool = False,
) -> Loaded:
    """All rows of one source at once: see `Reading`."""
    reading = Reading(source, roles, names, places, field_path, predicting)
    rows = list(reading.rows())
    return Loaded(rows, source.uri, reading.digest, reading.revision)


@dataclass
class Reading:
    """One source as it is read; `names` is the manifest's choice of columns by role.

    With `predicting` targets may be missing. The cells of the columns in `keep`, where each has the field that asks
    for it, become a row's `extra`. Rows that `cleaner` drops are not given. What it is read from is known after the
    last row.
    """

    source: Source
    roles: Roles
    names: Mapping[str, str]
    places: Places
    field_path: str
    predicting: bool = False
    keep: Mapping[str, str] = field(default_factory=dict)
    cleaner: Cleaner = field(default_factory=Cleaner)
    count: int = 0
    digest: str = ""
    revision: str | None = None

    def rows(self) -> Iterator[Row]:
        """One row after the other. Raises ConfigError, DataError or Unavailable, naming `field_path` and the row."""
        try:
            yield from self._rows()
        except PermissionError as error:
            hint = "make it readable for the user that the trainer runs as"
            message = f"{self.field_path}.uri: {self.source.uri} may not be read"
            raise ConfigError("NotReadable", message, hint) from error

    def _rows(self) -> Iterator[Row]:
        table = _table(self.source, self.places, self.field_path)
        columns: Mapping[str, str] | None = None
        digest = hashlib.sha256()
        for record in table.records:
            self.count += 1
            if columns is None:
                columns = self._columns(table.columns or list(record))
            row = self.cleaner.read(partial(self._row, record, columns, table.folder))
            if row is None:
                continue
            if table.digest is None:
                digest.update(json.dumps(plain(row.values), sort_keys=True).encode())
            yield row
        if not self.count:
            raise DataError("NoRows", f"{self.source.uri} has no rows", "name a file with rows")
        self.digest, self.revision = table.digest or digest.hexdigest(), table.revision

    def _columns(self, known: Sequence[str]) -> Mapping[str, str]:
        check_columns(self.keep, known, self.source.uri)
        return self.roles.resolve(self.names, known, self.source.uri, self.predicting)

    def _row(self, record: Record, columns: Mapping[str, str], folder: Path) -> Row:
        place = f"row {self.count} of {self.source.uri}"
        values = {
            role: self.roles.kinds[role](record.get(column), Where(place, column, role, folder))
            for role, column in columns.items()
        }
        extra = {column: _kept(record.get(column)) for column in self.keep}
        return Row(values, self.source.uri, self.count, self.source.weight, extra)


def _kept(cell: Any) -> Any:
    """A cell that plays no role, as JSON can hold it: a date of Parquet, for example, as text."""
    return cell if cell is None or isinstance(cell, str | bool | int | float) else str(cell)


def _table(source: Source, places: Places, field_path: str) -> Table:
    split = source.split or SPLIT
    if is_hub(source.uri):
        return hub.load_table(source, split, f"{field_path}.uri", places.downloads)
    path = local_path(source.uri, places, f"{field_path}.uri")
    kind = _format(source, path, field_path)
    if kind in folders.COLUMNS:
        return folders.read_folder(path, kind, split, source.uri)
    return formats.read_file(path, kind, source.uri)


def _format(source: Source, path: Path, field_path: str) -> DataFormat:
    """The format that the manifest names, or that the ending or the folder's files tell."""
    given = None if source.format is DataFormat.AUTO else source.format
    if path.is_dir():
        kind = given or folders.format_of(path)
        if kind is None or kind not in folders.COLUMNS:
            hint = "name one file in it, or a folder of images or of sounds"
            raise ConfigError("NotAFile", f"{field_path}.uri: {source.uri} is a folder", hint)
        return kind
    if given in folders.COLUMNS:
        message = f"{field_path}.uri: {source.uri} is a file, but {field_path}.format is {given}"
        raise ConfigError("NotAFolder", message, "name the folder that the files lie in")
    kind = given or formats.ENDINGS.get(path.suffix.lower())
    if kind is None:
        message = f"{field_path}.uri: cannot tell the format of {source.uri} from its ending"
        known = ", ".join(formats.READERS)
        raise ConfigError("UnknownFormat", message, f"set {field_path}.format to one of {known}")
    return kind
