"""What preparation did with the rows, in lines for the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def told(reports: Mapping[str, Any]) -> Iterator[str]:
    """A line for each stage that did something; `reports` are those of run.json."""
    for step, done in reports.get("cleaning", {}).items():
        if any(done.values()):
            yield f"cleaning, {step}: " + ", ".join(f"{count} rows {what}" for what, count in done.items() if count)
