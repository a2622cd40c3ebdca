"""What preparation did with the rows, in lines for the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LEAK = "leak"
"""What a line begins with that warns."""


def told(reports: Mapping[str, Any]) -> Iterator[str]:
    """A line for each stage that did something; `reports` are those of run.json."""
    for step, done in reports.get("cleaning", {}).items():
        if any(done.values()):
            yield f"cleaning, {step}: " + ", ".join(f"{count} rows {what}" for what, count in done.items() if count)
    yield from _duplicates(reports.get("dedup", {}))
    if shots := reports.get("shots"):
        yield f"few rows: {shots['rows']} are trained on, at most {shots['perClass']} of each class"


def _duplicates(done: Mapping[str, Any]) -> Iterator[str]:
    if done.get("withinTraining"):
        yield f"duplicates: {done['withinTraining']} rows dropped ({done['method']})"
    if done.get("conflictingLabels"):
        yield f"duplicates: {done['conflictingLabels']} inputs come with several labels; all of them are kept"
    for side, count in done.get("acrossSplits", {}).items():
        if count:
            yield f"{LEAK}: {count} training rows are in {side}, too, and were dropped from training"
