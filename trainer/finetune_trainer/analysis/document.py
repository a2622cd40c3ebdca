"""The analysis of a test evaluation, as evaluation.json has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from finetune_trainer.analysis import short
from finetune_trainer.analysis.slices import Slice, lengths, slices

if TYPE_CHECKING:
    from finetune_trainer.data.rows import Row
    from finetune_trainer.tasks.base import TaskKind

OWN = ("length", "label", "source")
"""What all rows are sliced by; a column of such a name is told apart from it."""
MOST_ROWS = 20_000
"""Rows that are sliced, evenly spaced among all: a large test set is not measured over and over."""


def analyse(task: TaskKind, rows: Sequence[Row], predictions: Sequence[Any], columns: Sequence[str]) -> dict[str, Any]:
    """What the task says of its errors, and its metric over slices by length, label, source and `columns`."""
    found = _measured(task, *_sample(rows, predictions), columns)
    return task.analyse(rows, predictions) | ({"slices": found} if found else {})


def _sample(rows: Sequence[Row], predictions: Sequence[Any]) -> tuple[list[Row], list[Any]]:
    count = min(len(rows), MOST_ROWS)
    places = [number * len(rows) // count for number in range(count)]
    return [rows[place] for place in places], [predictions[place] for place in places]


def _measured(
    task: TaskKind, rows: Sequence[Row], predictions: Sequence[Any], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Slices where the metric is defined."""
    found, metric = [], task.compared
    for part in _slices(task, rows, columns):
        value = task.measure_part(rows, predictions, part.places).get(metric)
        if value is not None and isfinite(value):
            line = {"by": short(part.by), "slice": short(part.name), "rows": len(part.places)}
            found.append({**line, "metric": metric, "value": round(value, 6)})
    return found


def _slices(task: TaskKind, rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Slice]:
    known = lengths(rows, task.inputs)
    if known is not None:
        unit, values = known
        yield from slices("length", values, unit)
    yield from slices("label", [task.group(row) for row in rows])
    yield from slices("source", [row.source for row in rows])
    for column in dict.fromkeys(columns):
        by = f"column {column}" if column in OWN else column
        yield from slices(by, [row.extra.get(column) for row in rows])
