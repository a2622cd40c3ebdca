"""One step of cleaning, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune_trainer.data.rows import Row


class NotAligned(Exception):
    """A step cannot change this row without parting what is lined up in it: the row stays as it is."""


@dataclass
class Step:
    """`work` returns the row, another one in its place, or None to drop it.

    `changes` says whether it did, or will be, something else; without it another row counts. Rows without a value of
    `role`, if there is one, are none of its business.
    """

    name: str
    work: Callable[[Row], Row | None]
    changes: Callable[[Row], bool] | None = None
    role: str | None = None
    changed: int = 0
    dropped: int = 0
    left: int = 0

    @classmethod
    def dropping(cls, name: str, unless: Callable[[Row], bool], role: str | None = None) -> Step:
        """A step that keeps the rows that are as they should be."""
        return cls(name, lambda row: row if unless(row) else None, role=role)

    def __call__(self, row: Row) -> Row | None:
        """What becomes of the row, counted."""
        if self.role is not None and self.role not in row.values:
            return row
        try:
            after = self.work(row)
        except NotAligned:
            self.left += 1
            return row
        if after is None:
            self.dropped += 1
        else:
            self.changed += self.changes(row) if self.changes else after.values != row.values
        return after

    def record(self) -> dict[str, int]:
        """What run.json says of it."""
        left = {"left": self.left} if self.left else {}
        return {"changed": self.changed, "dropped": self.dropped, **left}
