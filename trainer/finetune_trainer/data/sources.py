"""From a source of the manifest to rows with a value for every role that the task reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.dataset import DataFormat, Source
from finetune_trainer.data import folders, formats, hub
from finetune_trainer.data.columns import Roles, Where
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
    """Read one source; `names` is the manifest's choice of columns by role. With `predicting` targets may be missing.

    Raises ConfigError, DataError or Unavailable, naming `field_path` and the row.
    """
    try:
        table = _table(source, places, field_path)
        rows = _rows(table, source, roles, names, predicting)
    except PermissionError as error:
        hint = "make it readable for the user that the trainer runs as"
        raise ConfigError("NotReadable", f"{field_path}.uri: {source.uri} may not be read", hint) from error
    return Loaded(rows, source.uri, table.digest or _digest(rows), table.revision)


def _table(source: Source, places: Places, field_path: str) -> Table:
    split = source.split or SPLIT
    if is_hub(source.uri):
        return hub.load_table(source, split, f"{field_path}.uri")
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


def _rows(table: Table, source: Source, roles: Roles, names: Mapping[str, str], predicting: bool) -> list[Row]:
    rows: list[Row] = []
    columns: Mapping[str, str] = {}
    for number, record in enumerate(table.records, start=1):
        if not rows:
            columns = roles.resolve(names, table.columns or list(record), source.uri, predicting)
        values = _values(record, columns, roles, f"row {number} of {source.uri}", table.folder)
        rows.append(Row(values, source.uri, number, source.weight))
    if not rows:
        raise DataError("NoRows", f"{source.uri} has no rows", "name a file with rows")
    return rows


def _values(record: Record, columns: Mapping[str, str], roles: Roles, place: str, folder: Path) -> dict[str, object]:
    return {
        role: roles.kinds[role](record.get(column), Where(place, column, role, folder))
        for role, column in columns.items()
    }


def _digest(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(plain(row.values), sort_keys=True).encode())
    return digest.hexdigest()
