"""A labelled row as the tasks see it, and the checks that need no task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row: role to value as text, and where it stands, for messages to people."""

    values: Mapping[str, str]
    source: str
    number: int

    @property
    def place(self) -> str:
        return f"row {self.number} of {self.source}"


def as_text(value: Any) -> str | None:
    """A cell as text: whole floats without their `.0` (a column of integers with a gap is read as floats).

    None where there is no value: null, NaN, or nothing but blanks.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text if text.strip() else None
