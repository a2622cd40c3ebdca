"""From a run in progress to what its trackers are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from finetune_trainer.errors import Preempted, Unavailable
from finetune_trainer.faults import explain
from finetune_trainer.record import defining, read_record
from finetune_trainer.report.snapshot import Ending
from finetune_trainer.report.trackers.adapter import Tracked
from finetune_trainer.report.trackers.choice import adapters_of
from finetune_trainer.report.trackers.follower import Tracking
from finetune_trainer.training.run import Run

SUPERSEDED = "Superseded"


def start_trackers(run: Run, resumed: bool, environment: Mapping[str, str]) -> None:
    """In the main process, when it is known where the run goes on. The run's id is made once and kept."""
    if not run.world.is_main:
        return
    record = read_record(Path(run.config.folder)) or {}
    run.state.run_id = run.state.run_id or record.get("id", "")
    told = tracked(run, record.get("fingerprint", ""), resumed)
    run.reporter.sinks += [
        Tracking(title, adapter, told) for title, adapter in adapters_of(run.config, environment).items()
    ]


def tracked(run: Run, fingerprint: str, resumed: bool) -> Tracked:
    job = run.config.job
    return Tracked(
        id=run.state.run_id,
        name=job.name,
        folder=Path(run.config.folder),
        parameters=defining(run.config) | {"choices": asdict(run.choices)},
        tags={
            "job": job.name,
            "namespace": job.namespace,
            "run": str(job.run),
            "task": run.config.task.value,
            "fingerprint": fingerprint[:12],
        },
        resumed_step=run.state.step if resumed else None,
    )


def ending_of(error: BaseException) -> Ending | None:
    """What an attempt that ends with `error` is for others: a later one goes on, or none does.

    None where a later one already speaks for the run.
    """
    known = explain(error)
    if known.reason == SUPERSEDED:
        return None
    return Ending.STOPPED if isinstance(known, Preempted | Unavailable) else Ending.FAILED
