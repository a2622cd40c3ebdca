"""SIGTERM sets a flag, which is looked at wherever the processes agree; what one does alone it may interrupt."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(Exception):
    """This process was asked to stop, or all agreed that one of them was."""


class StopFlag:
    """Whether this process was asked to stop; SIGINT reaches us as SIGTERM, from the supervisor."""

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = False

    def install(self) -> None:
        """From now on SIGTERM waits for the next place where the ranks agree; before, it ends the process at once."""
        signal.signal(signal.SIGTERM, self._on_signal)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """In this block a request raises StopRequested at once, also one that came before.

        For what no other process takes part in, and what is not there until it is whole.
        """
        self._interrupts = True
        try:
            if self.requested:
                raise StopRequested
            yield
        finally:
            self._interrupts = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = True
        if self._interrupts:
            self._interrupts = False
            raise StopRequested
