"""Splitting by time: the newest rows are tested, those before them validate, and the others are learned from.

Rows of one time are never parted, so a side may get more than its share. Which rows they are follows from the times
alone, not from the order of the rows or the seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy
from numpy.typing import NDArray

from finetune_trainer.data.columns import as_text
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError

TIMES = "write 2026-05-01, 2026-05-01T08:30:00+02:00 (UTC without a zone) or a number, the same kind in every row"
NEWEST_FIRST = (Side.TEST, Side.VALIDATION)


def by_time(
    rows: Sequence[Row], column: str, field: str, shares: Mapping[Side, float]
) -> tuple[NDArray[numpy.int8], dict[Side, str]]:
    """The side of each row, 0 for training and then those of `shares`, and each held-out side's first time.

    Raises DataError for a row without a time.
    """
    times, dates = _times(rows, column, field)
    ordered = numpy.sort(times)
    sides, cuts, end = numpy.zeros(len(times), dtype=numpy.int8), {}, len(times)
    for side in (side for side in NEWEST_FIRST if side in shares):
        start = max(end - max(round(len(times) * shares[side]), 1), 0)
        if start == end:
            break
        cut = ordered[start]
        sides[(times >= cut) & (sides == 0)] = list(shares).index(side) + 1
        cuts[side], end = _shown(float(cut), dates), int(numpy.searchsorted(ordered, cut))
    return sides, cuts


def _times(rows: Sequence[Row], column: str, field: str) -> tuple[NDArray[numpy.float64], bool]:
    """The time of each row as a number, and whether they are dates."""
    times, dates = numpy.empty(len(rows)), None
    for place, row in enumerate(rows):
        time, date = _time(row.extra[column], row, column, field)
        if dates is not None and date is not dates:
            message = f"{row.place}: column {column!r} ({field}) holds {row.extra[column]!r}, unlike the rows before it"
            raise DataError("NotATime", message, TIMES)
        times[place], dates = time, date
    return times, bool(dates)


def _time(cell: Any, row: Row, column: str, field: str) -> tuple[float, bool]:
    """A cell as a number, and whether it is a date: then in seconds since 1970."""
    text = as_text(cell)
    if text is None:
        raise DataError("EmptyValue", f"{row.place}: column {column!r} ({field}) is empty", TIMES)
    try:
        return _number(text), False
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError as error:
        message = f"{row.place}: column {column!r} ({field}) holds {text!r}, which is no time"
        raise DataError("NotATime", message, TIMES) from error
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp(), True


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _shown(time: float, dates: bool) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat() if dates else f"{time:g}"
