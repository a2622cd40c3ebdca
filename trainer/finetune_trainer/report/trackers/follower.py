"""Telling one tracker what metrics.jsonl says, from a thread of its own: the loop never waits for a tracker.

The file is the queue. What could not be told is still there when the tracker can be reached again, and what an attempt
that was killed had written after its last checkpoint is cut away before the next one reads it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from finetune_trainer.files import CARD, EVALUATION, METRICS_LOG, PAGE
from finetune_trainer.report.snapshot import Ending, Snapshot
from finetune_trainer.report.trackers.adapter import Adapter, Point, Tracked, point_of

log = logging.getLogger(__name__)
INTERVAL = 1.0
"""Seconds between two looks at the file."""
RETRY = 15.0
"""The same after a failure."""
CHUNK = 200
"""Points that are told at once."""
FAILING, LAST_POINTS, FILES = 3.0, 12.0, 60.0
"""Seconds that the end of an attempt waits: for a tracker that did not answer, for the last points, for files."""
COMPLETE = (Ending.DONE, Ending.GATE_FAILED)
ARTIFACTS = (PAGE, CARD, EVALUATION)
MOST_BYTES = 20_000_000
"""Of an artifact; the model is not one."""


class Tracking:
    """A sink that lets its thread know when there may be news."""

    def __init__(self, title: str, adapter: Adapter, run: Tracked, interval: float = INTERVAL) -> None:
        self.title = title
        self.adapter = adapter
        self.run = run
        self.interval = interval
        self.log_file = run.folder / METRICS_LOG
        self.begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        """Where this attempt's own lines begin."""
        self._offset = 0
        self._opened = self._failing = False
        self._ending = Ending.FAILED
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=title, daemon=True)
        self._thread.start()

    def update(self, snapshot: Snapshot) -> None:
        if snapshot.ending is not None:
            self._ending = snapshot.ending
            self._closing.set()
        self._news.set()

    def close(self) -> None:
        """Wait for the last word, but not for ever."""
        self._closing.set()
        self._news.set()
        self._thread.join(self._patience())
        if self._thread.is_alive():
            log.warning("%s did not take everything in time; metrics.jsonl has it", self.title)

    def _patience(self) -> float:
        if self._failing:
            return FAILING
        return FILES if self._ending in COMPLETE else LAST_POINTS

    def _work(self) -> None:
        while not self._closing.is_set():
            self._news.wait()
            self._news.clear()
            self._try(self._tell)
            self._closing.wait(RETRY if self._failing else self.interval)
        self._try(self._finish)

    def _try(self, step: Callable[[], None]) -> None:
        """A tracker's failure, whatever it is, is said once and not ours; it is opened anew the next time."""
        try:
            step()
            self._failing = False
        except Exception as error:
            if not self._failing:
                log.warning("%s cannot be told of the run, which goes on: %s", self.title, _first_line(error))
            self._failing, self._opened = True, False

    def _tell(self) -> None:
        if not self._opened:
            self._offset = self.begin if self.adapter.open(self.run) else 0
            self._opened = True
        points, end = read_points(self.log_file, self._offset)
        for start in range(0, len(points), CHUNK):
            self.adapter.log(points[start : start + CHUNK])
        self._offset = end

    def _finish(self) -> None:
        self._tell()
        self.adapter.close(self._ending, self._artifacts())

    def _artifacts(self) -> list[Path]:
        """What a finished run is looked at by."""
        paths = [self.run.folder / name for name in ARTIFACTS] if self._ending in COMPLETE else []
        return [path for path in paths if path.is_file() and path.stat().st_size <= MOST_BYTES]


def read_points(path: Path, offset: int) -> tuple[list[Point], int]:
    """The whole lines of metrics.jsonl from `offset` on, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            whole, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], offset
    return [point_of(json.loads(line)) for line in whole.splitlines()], offset + len(whole) + len(newline)


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]
