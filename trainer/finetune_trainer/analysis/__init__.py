"""What went wrong in the test evaluation, and where: functions from plain values to what evaluation.json shows people.

Everything is bounded, however many rows and labels there are: the document stays below a megabyte. What the rows do
not define is left out, never NaN. Libraries are imported when a function is called, so importing a module costs
nothing. docs/evaluation.md says how each part is read.
"""

from __future__ import annotations

LONGEST_NAME = 80
"""Characters of a label, a word or a cell that are shown."""


def short(name: str) -> str:
    """A name that a table has room for."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
