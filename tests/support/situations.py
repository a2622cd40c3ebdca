"""What a decision is made from, put together as a pass of the operator does it."""

from __future__ import annotations

from typing import Any

from finetune_api.status import AttemptRecord, Nodes, Phase, Run, Status
from finetune_operator.core.job import current_run, spec_hash
from finetune_operator.core.observe import Children, observe
from finetune_operator.core.plan import Plan, Runtimes, plan
from finetune_operator.core.situation import Situation
from support.builders import NOW, RUNTIMES, AChildJob, AJob, APod, AWorkload


def in_attempt(job: AJob, attempt: int = 1, **status: Any) -> AJob:
    """A job whose attempt is under way."""
    run = Run(index=1, generation=1, spec_hash=spec_hash(job.job.spec))
    known = {"phase": Phase.RUNNING, "run": run, "attempt": attempt, "nodes": Nodes(desired=2, ready=2)}
    return job.with_status(Status.model_validate({**known, **status}))


def over(attempt: int = 1, result: str = "Failed", at: str = NOW, **more: Any) -> AttemptRecord:
    return AttemptRecord(run=1, attempt=attempt, result=result, end_time=at, **more)


def situation(
    job: AJob,
    *seen: APod | AChildJob | AWorkload,
    now: str = NOW,
    runtimes: Runtimes = RUNTIMES,
    gone: tuple[APod, ...] = (),
    events: tuple[dict[str, Any], ...] = (),
    stepped_at: str | None = None,
) -> Situation:
    children = Children(
        jobs=tuple(one.manifest for one in seen if isinstance(one, AChildJob)),
        pods=tuple(one.manifest for one in seen if isinstance(one, APod)),
        workloads=tuple(one.manifest for one in seen if isinstance(one, AWorkload)),
        gone=tuple(pod.manifest for pod in gone),
        events=events,
    )
    observed = observe(children, now, 120)
    current = current_run(job.job, {(child.run, child.attempt) for child in observed.jobs})
    made = plan(job.job, current.run.index, runtimes)
    if isinstance(made, Plan) and current.started:
        made = made.with_attempt(current.attempt)
    return Situation(job.job, current, made, observed, now, stepped_at)
