"""How far a run is, as one value that every sink shows in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from finetune_api.progress import Checkpoint, Progress


class Activity(StrEnum):
    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    PUSHING = "Pushing"


class Ending(StrEnum):
    """How an attempt ended; a stopped one goes on in the next."""

    DONE = "Done"
    GATE_FAILED = "GateFailed"
    STOPPED = "Stopped"
    FAILED = "Failed"


@dataclass(frozen=True)
class Snapshot:
    """One moment of a run. Times are seconds since 1970, rates are over all processes.

    A cross-validation has several `parts`, its folds and the run that makes the model; `part` counts them from 0, steps
    are those of one part. `constants` are metrics that were known before the part began.
    """

    activity: Activity = Activity.PREPARING
    step: int = 0
    total_steps: int | None = None
    epoch: float = 0.0
    loss: float | None = None
    loss_step: int | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    samples: int = 0
    tokens: int = 0
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    data_wait_seconds: float = 0.0
    checkpoint_stall_seconds: float = 0.0
    checkpoint_step: int | None = None
    checkpoint_time: float | None = None
    checkpoint_uri: str | None = None
    resumed_from_step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    part: int = 0
    parts: int = 1
    stopped_early: bool = False
    started: float = 0.0
    time: float = 0.0
    ending: Ending | None = None

    @property
    def percentage(self) -> int:
        """Whole percent of the steps of all parts that are done; 100 only when all are, or no more will be done."""
        done = self.step * 100 / self.total_steps if self.total_steps else 0
        done = 100 if self.stopped_early else done
        return int((100 * self.part + done) // self.parts)

    @property
    def seconds_left(self) -> float | None:
        """Those of this part, and of the parts after it if they take as long."""
        if self.eta_seconds is None:
            return None
        return self.eta_seconds + (self.parts - self.part - 1) * (self.time - self.started + self.eta_seconds)

    def progress(self) -> Progress:
        """In the words of a status."""
        return Progress(
            percentage=self.percentage,
            step=self.step,
            total_steps=self.total_steps,
            epoch=f"{self.epoch:.2f}",
            loss=None if self.loss is None else f"{self.loss:.4g}",
            tokens_per_second=None if self.tokens_per_second is None else round(self.tokens_per_second),
            eta_seconds=None if self.seconds_left is None else round(self.seconds_left),
            last_updated_time=timestamp(self.time),
        )

    def checkpoint(self) -> Checkpoint | None:
        if self.checkpoint_step is None and self.resumed_from_step is None:
            return None
        return Checkpoint(
            step=self.checkpoint_step,
            uri=self.checkpoint_uri,
            time=None if self.checkpoint_time is None else timestamp(self.checkpoint_time),
            resumed_from_step=self.resumed_from_step,
        )


class Sink(Protocol):
    """Shows snapshots somewhere; never blocks and never raises for what is wrong out there."""

    def update(self, snapshot: Snapshot) -> None: ...

    def close(self) -> None:
        """Show the last snapshot, whatever was held back."""


def timestamp(seconds: float) -> str:
    """As Kubernetes writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
