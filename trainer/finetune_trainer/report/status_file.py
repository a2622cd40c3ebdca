"""status.json: the document that a FineTuneJob has as its status, for whoever watches the folder."""

from __future__ import annotations

from pathlib import Path

from finetune_api.progress import MAX_METRICS, Outcome, Result
from finetune_api.run import JobIdentity
from finetune_api.status import TERMINAL, Condition, ConditionType, Phase, Status
from finetune_trainer.files import STATUS, read_json, write_json
from finetune_trainer.report.snapshot import Activity, Snapshot, timestamp

INTERVAL = 0.5
"""Seconds between two writes, unless the activity changes."""


class StatusFile:
    """Keeps status.json up to date while a rank works."""

    def __init__(self, folder: Path, job: JobIdentity) -> None:
        self.path = folder / STATUS
        self.job = job
        self._shown: Snapshot | None = None
        self._latest: Snapshot | None = None

    def update(self, snapshot: Snapshot) -> None:
        self._latest = snapshot
        shown = self._shown
        if shown and shown.activity is snapshot.activity and snapshot.time - shown.time < INTERVAL:
            return
        self._write(snapshot)

    def close(self) -> None:
        if self._latest is not self._shown and self._latest is not None:
            self._write(self._latest)

    def _write(self, snapshot: Snapshot) -> None:
        self._shown = snapshot
        write_json(self.path, running(snapshot, self.job).to_dict(), durable=False)


def running(snapshot: Snapshot, job: JobIdentity) -> Status:
    """The status of a run that is under way."""
    metrics = dict(list({**snapshot.constants, **snapshot.metrics}.items())[:MAX_METRICS])
    return Status(
        phase=Phase.RUNNING,
        conditions=[_under_way(snapshot.activity, snapshot.time)],
        attempt=job.attempt,
        start_time=timestamp(snapshot.started),
        progress=snapshot.progress() if snapshot.total_steps else None,
        metrics=metrics,
        checkpoint=snapshot.checkpoint(),
    )


def _under_way(activity: Activity, now: float) -> Condition:
    return Condition(type=ConditionType.RUNNING, status="True", reason=activity, last_transition_time=timestamp(now))


def doing(folder: Path, activity: Activity, now: float) -> None:
    """Say in status.json what the supervisor does after the ranks have ended; the numbers stay."""
    status = read_status(folder)
    if status is not None:
        shown = {"phase": Phase.RUNNING, "conditions": [_under_way(activity, now)], "failure": None}
        write_json(folder / STATUS, status.model_copy(update=shown).to_dict(), durable=False)


def read_status(folder: Path) -> Status | None:
    value = read_json(folder / STATUS)
    return None if value is None else Status.model_validate(value)


ENDS = {
    Result.SUCCEEDED: (Phase.SUCCEEDED, ConditionType.COMPLETE),
    Result.PREEMPTED: (Phase.SUSPENDED, ConditionType.SUSPENDED),
    Result.FAILED: (Phase.FAILED, ConditionType.FAILED),
}


def ended(status: Status, outcome: Outcome, now: float) -> Status:
    """`status` after the run came to `outcome`. A run that was asked to stop is Suspended: it can go on."""
    phase, condition = ENDS[outcome.outcome]
    reason = outcome.failure.reason if outcome.failure else outcome.outcome.value
    message = outcome.failure.message if outcome.failure else ""
    time = timestamp(now)
    conditions = [
        Condition(type=ConditionType.RUNNING, status="False", reason=reason, last_transition_time=time),
        Condition(type=condition, status="True", reason=reason, message=message, last_transition_time=time),
    ]
    said = {"failure": outcome.failure, "output": outcome.output, "provenance": outcome.provenance}
    changes = {"phase": phase, "conditions": conditions, **said}
    completed = {"completion_time": time} if phase in TERMINAL else {}
    return status.model_copy(update=changes | completed)
