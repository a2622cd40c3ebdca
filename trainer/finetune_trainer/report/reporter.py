"""One place that knows how far the run is, and tells every sink."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_trainer.files import METRICS_LOG
from finetune_trainer.report.snapshot import Activity, Ending, Sink, Snapshot, timestamp
from finetune_trainer.storage import writing

log = logging.getLogger(__name__)


class Reporter:
    """Holds the latest snapshot. Processes other than the main one have no sinks and no log."""

    def __init__(self, sinks: Sequence[Sink], metrics_log: MetricsLog | None, clock: Callable[[], float]) -> None:
        self.sinks = list(sinks)
        self.metrics_log = metrics_log
        self.clock = clock
        self.now = Snapshot(started=clock(), time=clock())

    def update(self, **changes: Any) -> None:
        """Change fields of the snapshot and show it."""
        self.now = replace(self.now, **changes, time=self.clock())
        for sink in self.sinks:
            sink.update(self.now)

    def doing(self, activity: Activity) -> None:
        self.update(activity=activity)

    def record(self, values: Mapping[str, float]) -> None:
        """Add one line to metrics.jsonl."""
        if self.metrics_log is not None:
            self.metrics_log.append({"step": self.now.step, "epoch": round(self.now.epoch, 4), **values}, self.clock())

    @property
    def log_bytes(self) -> int:
        return self.metrics_log.size if self.metrics_log is not None else 0

    def close(self, ending: Ending = Ending.DONE) -> None:
        """The last word of this attempt."""
        self.update(ending=ending)
        for sink in self.sinks:
            sink.close()


class MetricsLog:
    """metrics.jsonl: one line a log point or evaluation, numbers by name."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_LOG

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Forget what was logged after a checkpoint that had seen `size` bytes."""
        if self.size > size:
            os.truncate(self.path, size)

    def append(self, values: Mapping[str, Any], now: float) -> None:
        with writing("metrics", self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**values, "time": timestamp(now)}) + "\n")
