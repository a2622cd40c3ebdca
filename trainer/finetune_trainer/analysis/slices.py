"""Parts of the rows that are alike in something: where a model is weaker than its average says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.media import Media

if TYPE_CHECKING:
    import numpy

    from finetune_trainer.data.rows import Row

MOST_SLICES = 12
"""Of one column: those of its most frequent values."""
FEWEST_ROWS = 5
"""A metric over fewer says nothing."""
QUANTILES = 5
"""Slices with as many rows each that numbers are cut in."""
NOTHING = "(none)"


@dataclass(frozen=True)
class Slice:
    """The places of the rows that are alike `by` something."""

    by: str
    name: str
    places: Sequence[int]


def slices(by: str, values: Sequence[Any], unit: str = "") -> list[Slice]:
    """Rows with the same value, or for numbers in the same fifth; `values` has one of each row, a tuple for several.

    Numbers of no more than five different values are taken as values. Text counts as numbers where all of it is (the
    cells of CSV are text). Nothing where all rows are in one slice.
    """
    numbers = _numbers(values)
    found = _by_value(by, values) if numbers is None else _by_quantile(by, numbers, unit)
    large = [part for part in found if len(part.places) >= FEWEST_ROWS]
    return [] if [len(part.places) for part in large] == [len(values)] else large


def lengths(rows: Sequence[Row], inputs: Sequence[str]) -> tuple[str, list[float]] | None:
    """How long what a model reads of each row is, and the unit: characters, or seconds where there is only sound."""
    texts = [float(sum(_characters(row.values.get(role)) for role in inputs)) for row in rows]
    if any(texts):
        return "characters", texts
    if all("audio" in row.values for row in rows):
        return "seconds", [_seconds(row.values["audio"]) for row in rows]
    return None


def _characters(value: Any) -> int:
    """Of a text, of words with blanks between them, or of what is said in messages."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return _characters(value.get("content"))
    if isinstance(value, list | tuple):
        return sum(map(_characters, value)) + max(len(value) - 1, 0)
    return 0


def _seconds(sound: Media) -> float:
    import soundfile  # type: ignore[import-untyped]

    source = sound.path if sound.content is None else BytesIO(sound.content)
    return float(soundfile.info(source).duration)


def _numbers(values: Sequence[Any]) -> numpy.ndarray | None:
    """The values as numbers, NaN where there is none; None if they are no numbers, or too few different ones."""
    import numpy

    try:
        numbers = numpy.array([_number(value) for value in values], dtype=numpy.float64)
    except (TypeError, ValueError):
        return None
    known = numbers[~numpy.isnan(numbers)]
    return numbers if numpy.isfinite(known).all() and len(numpy.unique(known)) > QUANTILES else None


def _number(value: Any) -> float:
    if isinstance(value, bool | tuple):
        raise TypeError
    return math.nan if _missing(value) else float(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _by_quantile(by: str, numbers: numpy.ndarray, unit: str) -> list[Slice]:
    """From the smallest numbers to the largest, then rows without a number."""
    import numpy

    there = ~numpy.isnan(numbers)
    count = max(1, min(QUANTILES, int(there.sum()) // FEWEST_ROWS))
    edges = numpy.unique(numpy.quantile(numbers[there], numpy.arange(1, count) / count))
    bins = numpy.where(there, numpy.searchsorted(edges, numbers, side="left"), -1)
    parts = _joined([numpy.flatnonzero(bins == number) for number in range(len(edges) + 1)])
    found = [Slice(by, _range(numbers[places], unit), places.tolist()) for places in parts]
    return [*found, Slice(by, NOTHING, numpy.flatnonzero(~there).tolist())]


def _joined(parts: Sequence[numpy.ndarray]) -> list[numpy.ndarray]:
    """Those that are too small together with the next, the last with the one before it; equal numbers make such."""
    import numpy

    joined: list[numpy.ndarray] = []
    for number, places in enumerate(parts):
        rest = sum(map(len, parts[number:]))
        if joined and (len(joined[-1]) < FEWEST_ROWS or rest < FEWEST_ROWS):
            joined[-1] = numpy.sort(numpy.concatenate([joined[-1], places]))
        else:
            joined.append(places)
    return joined


def _range(numbers: numpy.ndarray, unit: str) -> str:
    digits = 3 if unit == "seconds" else 6
    least, most = (f"{value:.{digits}g}" for value in (numbers.min(), numbers.max()))
    return f"{least if least == most else f'{least} to {most}'} {unit}".rstrip()


def _by_value(by: str, values: Sequence[Any]) -> list[Slice]:
    """The most frequent values first. A row with several is in the slice of each."""
    own = [value if isinstance(value, tuple) else (value,) for value in values]
    names = [tuple(NOTHING if _missing(value) else str(value) for value in some) or (NOTHING,) for some in own]
    counts = Counter(name for some in names for name in set(some))
    frequent = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_SLICES]
    places: dict[str, list[int]] = {name: [] for name in frequent}
    for place, some in enumerate(names):
        for name in set(some) & places.keys():
            places[name].append(place)
    return [Slice(by, name, found) for name, found in places.items()]
