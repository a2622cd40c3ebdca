"""A thread that writes behind the loop's back: one thing at a time, and what became of it is told in the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from finetune_trainer import heartbeat

LOOK_EVERY = 1.0
"""Seconds between two looks whether what is waited for goes on."""


class Job:
    """Something that is being written: `work` in a thread of its own, `told` of path and time once it is there.

    `sign` changes as long as the work goes on.
    """

    def __init__(
        self, work: Callable[[], Path], told: Callable[[Path, float], None], sign: Callable[[], object]
    ) -> None:
        self.sign = sign
        self._work: Callable[[], Path] | None = work
        self._told = told
        self._path: Path | None = None
        self._error: BaseException | None = None
        self._ended = 0.0
        self.thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        assert self._work is not None
        try:
            self._path = self._work()
        except BaseException as error:
            self._error = error
        self._work = None  # and with it the copy that was written
        self._ended = time.time()

    def conclude(self) -> None:
        """Tell of what is written now, or raise why it could not be."""
        if self._error is not None:
            raise self._error
        assert self._path is not None
        self._told(self._path, self._ended)


class Writer:
    """What one process writes while it trains. All methods belong to the thread of the loop.

    `memory_is_short` says that there was no room to write while training goes on, and that it was told.
    """

    def __init__(self) -> None:
        self.memory_is_short = False
        self._job: Job | None = None

    def start(self, work: Callable[[], Path], told: Callable[[Path, float], None], sign: Callable[[], object]) -> None:
        """Do `work` meanwhile, once what was started before is done. Raises what that has raised."""
        self.wait()
        self._job = Job(work, told, sign)

    def settle(self) -> None:
        """Tell of what has been written since, or raise why it could not be; nothing while it is being written."""
        if self._job is not None and not self._job.thread.is_alive():
            job, self._job = self._job, None
            job.conclude()

    def wait(self) -> None:
        """Until nothing is being written any more, which is a sign of work only as long as the writing goes on."""
        seen: object = None
        while self._job is not None:
            self._job.thread.join(LOOK_EVERY)
            if (sign := self._job.sign()) != seen:
                heartbeat.beat()
                seen = sign
            self.settle()
