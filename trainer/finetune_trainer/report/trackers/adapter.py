"""What a tracker is told, and what its adapter has to do with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from finetune_trainer.report.snapshot import Ending


@dataclass(frozen=True)
class Tracked:
    """A run as trackers know it. `id` is the same in all of its attempts; `resumed_step` is None in the first.

    `parameters` are those of the manifest that say what is computed, nested, and what was chosen automatically.
    """

    id: str
    name: str
    folder: Path
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    resumed_step: int | None = None


@dataclass(frozen=True)
class Point:
    """One line of metrics.jsonl: numbers by name at a step, and when it was written, in seconds since 1970."""

    step: int
    time: float
    values: Mapping[str, float]


class Adapter(Protocol):
    """One tracker. Everything may block, and raise whatever the tracker's library raises."""

    def open(self, run: Tracked) -> bool:
        """Make the tracker's run, or go on with it; called again after a failure.

        Returns whether it has what metrics.jsonl had when this attempt began. Otherwise it is told everything from
        the first line on, and leaves out what it has.
        """

    def log(self, points: Sequence[Point]) -> None:
        """Add points; their steps never decrease."""

    def close(self, ending: Ending, artifacts: Sequence[Path]) -> None:
        """Send what is held back, then `artifacts`, and say how the attempt ended."""


def point_of(line: Mapping[str, Any]) -> Point:
    """A line of metrics.jsonl as a point; what is no number is left out."""
    numbers = {
        name: float(value)
        for name, value in line.items()
        if name not in ("step", "time") and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Point(int(line["step"]), datetime.fromisoformat(line["time"]).timestamp(), numbers)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """`training.learningRate` and its value as text, for every value in nested parameters."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flat(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from flat(item, f"{path}.{number}")
    else:
        yield path, str(value)
