"""`status`: what the pass leaves in the object, and `transitions`: what of it is worth telling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from finetune_api.progress import (
    MAX_METRICS,
    MAX_NAME,
    Budget,
    Checkpoint,
    FailureClass,
    Metrics,
    Output,
    Progress,
    Provenance,
)
from finetune_api.status import (
    MAX_EXCLUDED_NODES,
    MAX_HISTORY,
    TERMINAL,
    AttemptRecord,
    Condition,
    ConditionType,
    Nodes,
    Phase,
    Restarts,
    Status,
    Usage,
)
from finetune_operator.core import usage
from finetune_operator.core.decision import Closed, Decision
from finetune_operator.core.job import Job, spec_changed
from finetune_operator.core.plan import Plan
from finetune_operator.core.report import Report
from finetune_operator.core.situation import Situation
from finetune_operator.core.text import cut

WRITE_SECONDS: Final = 15
"""Least time between two writes that only bring news of progress."""
START_SECONDS: Final = 60
"""Least time between two writes that only count the pods that are up already."""
SETTLE_SECONDS: Final = 5
"""Why pods do not start is often over before anybody could read it: a node makes room, a volume is bound."""


def status(s: Situation, decision: Decision, report: Report | None) -> Status:
    """The job's status after `decision` was carried out."""
    previous = s.job.status
    conditions = _kept(s.job, s.now) if decision.keep else _conditions(s, decision)
    told = {"observed_generation": s.job.generation, "run": s.current.run, "conditions": conditions}
    if decision.keep:
        return previous.model_copy(update=told)
    same_run = previous.run is not None and previous.run.index == s.index
    base = previous if same_run else Status(history=previous.history)
    news = report if report and (report.run, report.attempt) == (s.index, s.attempt) else None
    progress, checkpoint = _progress(base, decision, news), _checkpoint(s, decision, base, news)
    return base.model_copy(
        update={
            **told,
            "phase": decision.phase,
            "attempt": decision.start.attempt if decision.start else s.attempt,
            "restarts": _restarts(s, decision.closed),
            "start_time": base.start_time or (s.now if decision.start else None),
            "completion_time": s.now if decision.phase in TERMINAL and s.current.started else None,
            "nodes": _nodes(s, decision, base),
            "progress": progress,
            "metrics": _metrics(base, decision, news),
            "checkpoint": checkpoint,
            "failure": decision.failure,
            "history": _history(s, decision.closed, base, progress, checkpoint),
            "output": _output(s, decision),
            "usage": _usage(s, decision, base, progress, checkpoint),
            "excluded_nodes": _excluded(base, decision.closed),
            "provenance": _provenance(s, decision, base),
        }
    )


def _restarts(s: Situation, closed: Closed | None) -> Restarts:
    before = s.restarts
    if closed is None or not closed.restart:
        return before
    program, infra = closed.budget is Budget.PROGRAM, closed.budget is Budget.INFRASTRUCTURE
    return Restarts(total=before.total + 1, program=before.program + program, infra=before.infra + infra)


def _nodes(s: Situation, decision: Decision, base: Status) -> Nodes | None:
    plan = decision.start or s.plan
    if not isinstance(plan, Plan):
        return base.nodes.model_copy(update={"ready": 0}) if base.nodes else None
    ready = 0 if decision.start else sum(pod.ready and pod.live for pod in s.pods)
    return Nodes(desired=plan.nodes, ready=ready)


def _progress(base: Status, decision: Decision, news: Report | None) -> Progress | None:
    progress = base.progress
    if news is not None:
        progress = _over(progress, news.progress)
    outcome = decision.outcome
    if outcome is not None and outcome.progress is not None:
        progress = _over(progress, outcome.progress)
    if decision.phase is Phase.SUCCEEDED:
        progress = _over(progress, Progress(percentage=100, eta_seconds=0))
    return progress


def _over(former: Progress | None, news: Progress) -> Progress:
    said = {name: value for name, value in news if value is not None}
    return (former or Progress()).model_copy(update=said)


def _metrics(base: Status, decision: Decision, news: Report | None) -> Metrics:
    latest = {} if decision.outcome is None else decision.outcome.metrics
    merged = {**base.metrics, **(news.metrics if news else {}), **latest}
    newest_last = list(merged.items())[-MAX_METRICS:]
    return dict(newest_last)


def _checkpoint(s: Situation, decision: Decision, base: Status, news: Report | None) -> Checkpoint | None:
    checkpoint = base.checkpoint
    ends = (pod.ended.outcome for pod in s.pods if pod.ended and pod.ended.outcome)
    said = [outcome.checkpoint for outcome in ends if outcome.checkpoint]
    for latest in ([news.checkpoint] if news else []) + sorted(said, key=lambda one: one.step or 0):
        checkpoint = _newer(checkpoint, latest, s)
    another = decision.start is not None or base.attempt != s.attempt
    if checkpoint is not None and another and not _resumed(news):
        checkpoint = checkpoint.model_copy(update={"resumed_from_step": None})
    return checkpoint


def _resumed(news: Report | None) -> bool:
    return news is not None and news.checkpoint.resumed_from_step is not None


def _newer(former: Checkpoint | None, latest: Checkpoint, s: Situation) -> Checkpoint | None:
    said = {name: value for name, value in latest if value is not None and name != "uri"}
    if not said:
        return former
    former = former or Checkpoint()
    if latest.step is not None and latest.step != former.step:
        uri = s.plan.config.checkpoint_uri if isinstance(s.plan, Plan) else former.uri
        said = {"time": s.now, **said, "uri": uri}
    return former.model_copy(update=said)


def _history(
    s: Situation, closed: Closed | None, base: Status, progress: Progress | None, checkpoint: Checkpoint | None
) -> list[AttemptRecord]:
    history = s.job.status.history
    if closed is None:
        return history
    outcome = closed.outcome.checkpoint if closed.outcome else None
    resumed = outcome.resumed_from_step if outcome else None
    why = closed.failure
    before = base.checkpoint.resumed_from_step if base.checkpoint else None
    record = AttemptRecord(
        run=s.index,
        attempt=s.attempt,
        result=closed.result,
        class_=why.class_ if why else None,
        reason=why.reason if why else closed.reason,
        message=why.message if why else cut(closed.message) if closed.message else None,
        pod=why.pod if why else None,
        node=why.node if why else None,
        exit_code=why.exit_code if why else None,
        nodes=closed.nodes or (None if s.fetching else s.nodes or None),
        resumed_from_step=resumed if resumed is not None else before,
        lost_steps=usage.lost_steps(progress, checkpoint) if why else None,
        start_time=s.child.created if s.child else None,
        end_time=s.now,
    )
    return [*history, record][-MAX_HISTORY:]


def _usage(
    s: Situation, decision: Decision, base: Status, progress: Progress | None, checkpoint: Checkpoint | None
) -> Usage | None:
    if not s.current.started:
        return base.usage
    counted = usage.counted(base, decision.phase, s.gpus, s.now)
    given_up = decision.phase is Phase.FAILED and not _has_model(decision)
    if decision.closed is not None and (decision.closed.restart or given_up):
        lost = usage.lost_seconds(base, checkpoint, s.now)
        counted = counted.model_copy(
            update={
                "lost_steps": counted.lost_steps + usage.lost_steps(progress, checkpoint),
                "lost_gpu_seconds": counted.lost_gpu_seconds + s.gpus * lost,
            }
        )
    return counted if counted != Usage() else base.usage


def _excluded(base: Status, closed: Closed | None) -> list[str] | None:
    known = base.excluded_nodes or []
    node = closed.failure.node if closed and closed.exclude_node and closed.failure else None
    return base.excluded_nodes if node is None or node in known else [*known, node][-MAX_EXCLUDED_NODES:]


def _provenance(s: Situation, decision: Decision, base: Status) -> Provenance | None:
    plan = decision.start or s.plan
    if not isinstance(plan, Plan) or not (s.current.started or decision.start):
        return base.provenance
    known = base.provenance or Provenance()
    digest = next((pod.image_digest for pod in s.pods if pod.image_digest and not s.fetching), None)
    ours = Provenance(image=plan.image, image_digest=digest, runtimes=cut(plan.runtimes) or None)
    told = decision.outcome.provenance if decision.outcome else None
    said = {name: value for part in (ours, told) if part for name, value in part if value is not None}
    return known.model_copy(update=said)


def _has_model(decision: Decision) -> bool:
    """Whether the run left its model: one whose gate failed did, too."""
    failure = decision.failure
    gate_failed = failure is not None and failure.class_ is FailureClass.EVALUATION_GATE_FAILED
    return decision.phase is Phase.SUCCEEDED or (decision.phase is Phase.FAILED and gate_failed)


def _output(s: Situation, decision: Decision) -> Output | None:
    if not _has_model(decision) or not isinstance(s.plan, Plan):
        return None
    uri, said = s.plan.config.output_uri, decision.outcome.output if decision.outcome else None
    pushed = said.model_copy(update={"uri": None}) if said and said.pushed_uri else None
    if uri is None:
        return pushed
    return (said or Output()).model_copy(update={"uri": uri})


Holding = tuple[ConditionType, bool]

READY_AND: dict[Phase, tuple[Holding, ...]] = {
    Phase.PENDING: ((ConditionType.READY, False), (ConditionType.RECONCILING, True)),
    Phase.QUEUED: ((ConditionType.READY, True), (ConditionType.RUNNING, False)),
    Phase.RUNNING: ((ConditionType.READY, True), (ConditionType.RUNNING, True)),
    Phase.RESTARTING: ((ConditionType.READY, True), (ConditionType.RUNNING, False)),
    Phase.SUSPENDED: (
        (ConditionType.READY, True),
        (ConditionType.RUNNING, False),
        (ConditionType.SUSPENDED, True),
    ),
    Phase.SUCCEEDED: (
        (ConditionType.READY, True),
        (ConditionType.RUNNING, False),
        (ConditionType.COMPLETE, True),
    ),
    Phase.FAILED: (
        (ConditionType.READY, False),
        (ConditionType.STALLED, True),
        (ConditionType.RUNNING, False),
        (ConditionType.FAILED, True),
    ),
}
"""Conditions of each phase. What is not named is absent: kstatus and Argo CD read it as false."""
STALLED: tuple[Holding, ...] = ((ConditionType.READY, False), (ConditionType.STALLED, True))


def _conditions(s: Situation, decision: Decision) -> list[Condition]:
    holding = READY_AND[decision.phase]
    if decision.stalled and decision.phase is not Phase.FAILED:
        holding = STALLED
    made = [_condition(s.job, type_, holds, decision.reason, decision.message, s.now) for type_, holds in holding]
    return [*made, *_spec_changed(s.job, s.current.run.index, s.now)]


def _kept(job: Job, now: str) -> list[Condition]:
    former = [item for item in job.status.conditions if item.type is not ConditionType.SPEC_CHANGED]
    current = [item.model_copy(update={"observed_generation": job.generation}) for item in former]
    return [*current, *_spec_changed(job, job.status.run.index if job.status.run else 0, now)]


def _spec_changed(job: Job, run: int, now: str) -> Iterator[Condition]:
    if job.status.run is not None and job.status.run.index == run and job.status.attempt and spec_changed(job):
        message = f"the spec has changed since run {run} began; runPolicy.onSpecChange is {job.policy.on_spec_change}"
        yield _condition(job, ConditionType.SPEC_CHANGED, True, "SpecChanged", message, now)


def _condition(job: Job, type_: ConditionType, holds: bool, reason: str, message: str, now: str) -> Condition:
    value = "True" if holds else "False"
    former = next((item for item in job.status.conditions if item.type is type_), None)
    since = former.last_transition_time if former and former.status == value else now
    return Condition(
        type=type_,
        status="True" if holds else "False",
        reason=cut(reason, MAX_NAME) or "Unknown",
        message=cut(message),
        last_transition_time=since,
        observed_generation=job.generation,
    )


def write_in(old: Status, new: Status, since_write: float | None) -> float | None:
    """Seconds until `new` is to be written over `old`: 0 for now, None for never.

    `since_write` is the age of the last write in seconds; news that can wait do so until it is old enough.
    """
    if old == new:
        return None
    return 0.0 if since_write is None else max(0.0, _patience(old, new) - since_write)


def _patience(old: Status, new: Status) -> float:
    before, after = _substance(old), _substance(new)
    if before == after:
        return WRITE_SECONDS if new.phase in (Phase.RUNNING, Phase.SUSPENDED) else START_SECONDS
    if old.phase is new.phase is Phase.RESTARTING and _begun_again(before, after):
        return START_SECONDS if _saved_step(old) == _saved_step(new) else 0.0
    starting = old.phase is Phase.PENDING and new.phase is Phase.PENDING
    return SETTLE_SECONDS if starting and _without_reasons(before) == _without_reasons(after) else 0.0


def _begun_again(before: Status, after: Status) -> bool:
    """Whether all there is to tell is that the next attempt's children were made: that can wait until its pods run."""
    return before.model_copy(update={"attempt": after.attempt, "nodes": after.nodes}) == after


def _saved_step(value: Status) -> int | None:
    return value.checkpoint.step if value.checkpoint else None


def _without_reasons(value: Status) -> Status:
    return value.model_copy(
        update={"conditions": [item.model_copy(update={"reason": "Any"}) for item in value.conditions]}
    )


def _substance(value: Status) -> Status:
    """`value` without what changes all the time."""
    conditions = [item.model_copy(update={"message": ""}) for item in value.conditions]
    nodes = value.nodes.model_copy(update={"ready": 0}) if value.nodes else None
    quiet: dict[str, Any] = {
        "progress": None,
        "metrics": {},
        "checkpoint": None,
        "nodes": nodes,
        "conditions": conditions,
        "provenance": None,
    }
    return value.model_copy(update=quiet)


def merge_patch(old: Any, new: Any) -> dict[str, Any]:
    """The JSON merge patch that makes `new` of `old`."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        former = old.get(name)
        if isinstance(former, dict) and isinstance(value, dict):
            if inner := merge_patch(former, value):
                patch[name] = inner
        elif former != value:
            patch[name] = value
    return patch


class Happening(StrEnum):
    """What a person or a counter is told of."""

    RESTARTED = "Restarted"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


WARNINGS = frozenset({Happening.RESTARTED, Happening.FAILED})
EVENTS = frozenset({Happening.RESTARTED, Happening.SUSPENDED, Happening.FAILED})
"""What is worth an Event, which is a write: not what every job does, and its status and its child Job's Events tell."""


@dataclass(frozen=True)
class Transition:
    happening: Happening
    message: str
    failure_class: FailureClass | None = None

    @property
    def type(self) -> str:
        return "Warning" if self.happening in WARNINGS else "Normal"


HAPPENINGS = {
    Phase.SUSPENDED: Happening.SUSPENDED,
    Phase.SUCCEEDED: Happening.SUCCEEDED,
    Phase.FAILED: Happening.FAILED,
}


def transitions(old: Status, new: Status) -> tuple[Transition, ...]:
    """What happened between two statuses, in the order in which it happened."""
    return tuple(_transitions(old, new))


def _transitions(old: Status, new: Status) -> Iterator[Transition]:
    restarted = new.restarts and new.run and new.restarts.total > _total(old, new.run.index)
    if restarted and new.phase is not Phase.SUSPENDED:
        class_ = new.failure.class_ if new.failure else None
        yield Transition(Happening.RESTARTED, new.failure.message if new.failure else "", class_)
    if old.phase is new.phase or new.phase is None:
        return
    if new.phase in HAPPENINGS:
        class_ = new.failure.class_ if new.failure else None
        yield Transition(HAPPENINGS[new.phase], _ready_message(new), class_)


def _total(status: Status, run: int) -> int:
    same = status.run is not None and status.run.index == run
    return status.restarts.total if same and status.restarts else 0


def _ready_message(status: Status) -> str:
    return next((item.message for item in status.conditions if item.type is ConditionType.READY), "")
