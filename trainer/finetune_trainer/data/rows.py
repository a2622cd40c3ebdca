"""A row as a source gives it, and as the tasks see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
"""Cells by column."""


@dataclass(frozen=True)
class Row:
    """One row: role to value (see `columns`), where it stands, for messages to people, and how much it counts."""

    values: Mapping[str, Any]
    source: str
    number: int
    weight: float = 1.0

    @property
    def place(self) -> str:
        return f"row {self.number} of {self.source}"


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
