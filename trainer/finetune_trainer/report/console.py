"""Progress as lines of the log."""

from __future__ import annotations

import logging

from finetune_trainer.report.snapshot import Snapshot

log = logging.getLogger(__name__)
INTERVAL = 1.0
"""Seconds between two lines."""


class Console:
    """A line when there is a new loss, and not more often than people read; the last loss always."""

    def __init__(self) -> None:
        self._shown = Snapshot()

    def update(self, snapshot: Snapshot) -> None:
        if snapshot.loss_step != snapshot.step or snapshot.loss_step == self._shown.loss_step:
            return
        if snapshot.loss_step == snapshot.total_steps or snapshot.time - self._shown.time >= INTERVAL:
            log.info(line(snapshot))
            self._shown = snapshot

    def close(self) -> None:
        return None


def line(snapshot: Snapshot) -> str:
    """`step 40/95  epoch 2.11  loss 0.3412  lr 1.2e-04  3411 tokens/s  ETA 0:41`"""
    parts = [f"step {snapshot.step}/{snapshot.total_steps}", f"epoch {snapshot.epoch:.2f}"]
    if snapshot.loss is not None:
        parts.append(f"loss {snapshot.loss:.4f}")
    if snapshot.learning_rate is not None:
        parts.append(f"lr {snapshot.learning_rate:.1e}")
    if snapshot.tokens_per_second is not None:
        parts.append(f"{snapshot.tokens_per_second:.0f} tokens/s")
    if snapshot.eta_seconds is not None:
        parts.append(f"ETA {duration(snapshot.eta_seconds)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`0:41`, `12:05` or `3:00:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
