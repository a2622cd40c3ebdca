"""SIGTERM sets a flag, nothing else."""

from __future__ import annotations

import signal
from types import FrameType


class StopFlag:
    """Whether this process was asked to stop; SIGINT reaches us as SIGTERM, from the supervisor."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """From now on SIGTERM waits for the next place where the ranks agree; before, it ends the process at once."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = True
