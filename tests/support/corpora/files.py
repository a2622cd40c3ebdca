"""Rows as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def write_csv(path: Path, rows: Rows) -> Path:
    """A cell that is not text or a number is written as JSON."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return path


def write_json_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Rows) -> Path:
    """The column `text`, a line a row."""
    path.write_text("".join(f"{row['text']}\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(list(rows)), path)
    return path


def write_arrow(path: Path, rows: Rows) -> Path:
    """An Arrow IPC file."""
    from pyarrow import Table, ipc

    table = Table.from_pylist(list(rows))
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def _cell(value: Any) -> str | float:
    return value if isinstance(value, str | int | float) else json.dumps(value)
