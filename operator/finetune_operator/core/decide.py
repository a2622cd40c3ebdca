"""`decide`: what to do next, as a chain of rules of which the first that has an answer wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from finetune_api.names import attempt_name
from finetune_api.progress import BUDGETS, Budget, Failure, FailureClass, Outcome
from finetune_api.status import TERMINAL, Phase, Restarts
from finetune_operator.core.faults import Fault, fault
from finetune_operator.core.job import CurrentRun, Job
from finetune_operator.core.observe import Bucket, JobState, Observed, Pod
from finetune_operator.core.plan import Plan, Refused
from finetune_operator.core.text import failure
from finetune_operator.core.times import elapsed

FIRST_BACKOFF_SECONDS: Final = 10
MAX_BACKOFF_SECONDS: Final = 300
MAX_INFRA_BACKOFF_SECONDS: Final = 5
GATE_SECONDS: Final = 30
"""How soon to look again where pods must go first; their events usually come before."""
CHILD_INVALID: Final = "ChildInvalid"
SUSPENDED: Final = "Suspended"


@dataclass(frozen=True)
class Situation:
    """All that a decision is made from."""

    job: Job
    current: CurrentRun
    plan: Plan | Refused | None
    observed: Observed
    now: str

    @property
    def index(self) -> int:
        return self.current.run.index

    @property
    def attempt(self) -> int:
        return self.current.attempt

    @property
    def state(self) -> JobState:
        return self.observed.state(self.index, self.attempt)

    @property
    def pods(self) -> tuple[Pod, ...]:
        return self.observed.of(self.index, self.attempt)

    @property
    def closed(self) -> bool:
        """Whether the current attempt is over and counted."""
        records = self.job.status.history
        return any((record.run, record.attempt) == (self.index, self.attempt) for record in records)

    @property
    def restarts(self) -> Restarts:
        return (self.current.started and self.job.status.restarts) or Restarts()


@dataclass(frozen=True)
class Closed:
    """The end of the current attempt, for the history and the budgets."""

    result: str
    failure: Failure | None = None
    outcome: Outcome | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class Decision:
    """What to do, and what to say of it."""

    phase: Phase
    reason: str
    message: str = ""
    start: Plan | None = None
    """Create the children of this attempt."""
    stop: tuple[str, ...] = ()
    """Delete these Jobs."""
    clean: tuple[str, ...] = ()
    """Delete all children of these names."""
    closed: Closed | None = None
    failure: Failure | None = None
    stalled: bool = False
    outcome: Outcome | None = None
    keep: bool = False
    """Leave the status as it is."""
    confirm: bool = False
    """Read the children again first: a watch may be behind, and this cannot be taken back."""
    requeue_after: float | None = None


Rule = Callable[[Situation], Decision | None]


def decide(situation: Situation) -> Decision:
    for rule in RULES:
        decision = rule(situation)
        if decision is not None:
            return decision
    return _running(situation)


def _finished(s: Situation) -> Decision | None:
    status = s.job.status
    if status.phase not in TERMINAL or not s.current.started:
        return None
    keep = Decision(status.phase, "", keep=True)
    ttl = s.job.policy.ttl_seconds_after_finished
    if ttl is None or status.completion_time is None or not s.observed.jobs:
        return keep
    left = ttl - elapsed(status.completion_time, s.now)
    if left > 0:
        return Decision(status.phase, "", keep=True, requeue_after=left)
    attempts = {attempt_name(s.job.name, s.job.uid, s.index, number) for number in range(1, s.attempt + 1)}
    return Decision(status.phase, "", keep=True, clean=tuple(sorted(attempts | {job.name for job in s.observed.jobs})))


def _not_started(s: Situation) -> Decision | None:
    """A run that has no children yet: suspended, refused, or refused before and not changed since."""
    if s.current.started:
        return None
    if s.job.policy.suspend:
        return Decision(Phase.SUSPENDED, SUSPENDED, "spec.runPolicy.suspend is true; nothing was started")
    if isinstance(s.plan, Refused):
        phase = Phase.PENDING if s.plan.waits else Phase.FAILED
        return _stalled(phase, s.plan.failure)
    status = s.job.status
    refused = status.failure is not None and status.failure.reason == CHILD_INVALID
    if refused and status.run == s.current.run:
        return Decision(Phase.FAILED, CHILD_INVALID, keep=True)
    return None


def _stalled(phase: Phase, failure: Failure) -> Decision:
    return Decision(phase, failure.reason, failure.message, failure=failure, stalled=True)


def _succeeded(s: Situation) -> Decision | None:
    if s.closed or s.state is not JobState.COMPLETE:
        return None
    first = next((pod for pod in s.pods if pod.rank == 0 and pod.bucket is Bucket.SUCCEEDED), None)
    outcome = first.ended.outcome if first and first.ended else None
    return Decision(
        Phase.SUCCEEDED,
        "Completed",
        _success_message(s, outcome),
        outcome=outcome,
        closed=Closed("Succeeded", outcome=outcome),
        confirm=outcome is None,
    )


def _success_message(s: Situation, outcome: Outcome | None) -> str:
    uri = s.plan.config.output_uri if isinstance(s.plan, Plan) else None
    if outcome is not None and outcome.output is not None and outcome.output.uri:
        uri = uri or outcome.output.uri
    place = f"the model is at {uri}" if uri else "spec.output.uri is not set: the files went with the pod"
    return place if outcome else f"{place}; the trainer left no metrics"


def _suspend(s: Situation) -> Decision | None:
    if not s.job.policy.suspend or (s.state is JobState.FAILED and not s.closed):
        return None
    stop = () if s.state is JobState.ABSENT else (_name(s, s.attempt),)
    closed = None if s.closed else Closed(SUSPENDED)
    waiting = any(pod.live for pod in s.pods)
    message = "pods are saving their state" if waiting else "the hardware is given back"
    return Decision(Phase.SUSPENDED, SUSPENDED, message, stop=stop, closed=closed)


def _name(s: Situation, attempt: int) -> str:
    return attempt_name(s.job.name, s.job.uid, s.index, attempt)


def _failed(s: Situation) -> Decision | None:
    if s.closed or not s.current.started:
        return None
    found = fault(s.observed, s.index, s.attempt, s.job.namespace)
    if found is None:
        return None
    exhausted = _exhausted(s, found.failure.class_)
    return _give_up(s, found, exhausted) if exhausted is not None else _restart(s, found)


def _exhausted(s: Situation, class_: FailureClass) -> str | None:
    """Why there is no restart, or None where there is one."""
    budget, policy = BUDGETS[class_], s.job.policy
    if budget is Budget.FINAL:
        return f"{class_} is not retried"
    if budget is Budget.PROGRAM and s.restarts.program >= policy.backoff_limit:
        return f"spec.runPolicy.backoffLimit {policy.backoff_limit} is used up"
    if budget is Budget.INFRASTRUCTURE and s.restarts.infra >= policy.infra_backoff_limit:
        return f"spec.runPolicy.infraBackoffLimit {policy.infra_backoff_limit} is used up"
    return None


def _give_up(s: Situation, found: Fault, why: str) -> Decision:
    return Decision(
        Phase.FAILED,
        found.failure.reason,
        f"{found.failure.message} ({why})",
        failure=found.failure,
        stalled=True,
        outcome=found.outcome,
        closed=Closed("Failed", found.failure, found.outcome),
        stop=_stoppable(s),
        confirm=True,
    )


def _restart(s: Situation, found: Fault) -> Decision:
    budget = BUDGETS[found.failure.class_]
    return Decision(
        Phase.RESTARTING,
        found.failure.reason,
        found.failure.message,
        failure=found.failure,
        closed=Closed("Failed", found.failure, found.outcome, budget),
        stop=_stoppable(s),
        confirm=True,
        requeue_after=backoff_seconds(budget, s.restarts),
    )


def _stoppable(s: Situation) -> tuple[str, ...]:
    """Jobs up to the current attempt's that are not over. A later one may be there after a crash, and is wanted."""
    current = (s.index, s.attempt)
    jobs = (job for job in s.observed.jobs if job.state is JobState.ACTIVE)
    return tuple(job.name for job in jobs if (job.run, job.attempt) <= current)


def backoff_seconds(budget: Budget | None, before: Restarts) -> float:
    """Seconds between an attempt's end and the next, after `before` restarts."""
    if budget is Budget.PROGRAM:
        return min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(before.program, 16))
    return float(min(MAX_INFRA_BACKOFF_SECONDS, before.infra)) if budget is Budget.INFRASTRUCTURE else 0.0


def _start(s: Situation) -> Decision | None:
    """The first attempt, or the next after one that is over: once no pod of another is left and the time has come."""
    if s.current.started and not s.closed:
        return None
    attempt = s.attempt + 1
    if isinstance(s.plan, Refused):
        return _stalled(Phase.FAILED, s.plan.failure)
    left = s.observed.live_outside(s.index, attempt)
    if left:
        return _wait_for_pods(s, left)
    wait = _backoff_left(s)
    if wait > 0:
        return Decision(Phase.RESTARTING, *_restarting(s), failure=s.job.status.failure, requeue_after=wait)
    assert s.plan is not None
    phase, reason, message = Phase.PENDING, "Starting", "children are created"
    if s.job.status.phase is Phase.RESTARTING:
        phase, (reason, message) = Phase.RESTARTING, _restarting(s)
    return Decision(
        phase,
        reason,
        message,
        start=s.plan.with_attempt(attempt),
        failure=s.job.status.failure if phase is Phase.RESTARTING else None,
        confirm=s.current.started or s.index > 1,
    )


def _wait_for_pods(s: Situation, left: tuple[Pod, ...]) -> Decision:
    restarting = s.job.status.phase is Phase.RESTARTING
    reason, _ = _restarting(s) if restarting else ("WaitingForPods", "")
    return Decision(
        Phase.RESTARTING if restarting else Phase.PENDING,
        reason,
        f"pods of the former attempt must end first: {', '.join(pod.name for pod in left[:3])}",
        stop=_stoppable(s),
        failure=s.job.status.failure if restarting else None,
        requeue_after=GATE_SECONDS,
    )


def _restarting(s: Situation) -> tuple[str, str]:
    known = s.job.status.failure
    return (known.reason, known.message) if known else ("Restarting", "the next attempt is started")


def _backoff_left(s: Situation) -> float:
    """Seconds until the next attempt may start."""
    record = next((r for r in reversed(s.job.status.history) if (r.run, r.attempt) == (s.index, s.attempt)), None)
    known = s.job.status.failure
    if record is None or record.end_time is None or record.result != "Failed" or known is None:
        return 0.0
    budget = BUDGETS[known.class_]
    before = Restarts(program=max(0, s.restarts.program - 1), infra=max(0, s.restarts.infra - 1))
    return backoff_seconds(budget, before) - elapsed(record.end_time, s.now)


def _running(s: Situation) -> Decision:
    """The current attempt's Job is there and not over."""
    nodes = s.plan.nodes if isinstance(s.plan, Plan) else 0
    up = [pod for pod in s.pods if pod.ready or pod.bucket is Bucket.SUCCEEDED]
    phase = s.job.status.phase
    if phase is Phase.RUNNING or (nodes and len(up) >= nodes):
        return Decision(Phase.RUNNING, "Training", f"{nodes} pods are training", requeue_after=s.observed.next_check)
    phase = Phase.RESTARTING if phase is Phase.RESTARTING else Phase.PENDING
    reason, message = _what_is_missing(s, nodes, len(up))
    return Decision(
        phase,
        reason,
        message,
        failure=s.job.status.failure if phase is Phase.RESTARTING else None,
        requeue_after=s.observed.next_check,
    )


def _what_is_missing(s: Situation, nodes: int, up: int) -> tuple[str, str]:
    waiting = next(((pod, pod.waiting) for pod in s.pods if pod.waiting), None)
    if waiting is not None:
        pod, (reason, message) = waiting
        return reason, f"{up} of {nodes} pods are ready; {pod.name}: {message or reason}"
    if s.job.status.phase is Phase.RESTARTING:
        return _restarting(s)
    return "Starting", f"{up} of {nodes} pods are ready"


def refused_by_server(decision: Decision, message: str, *, final: bool) -> Decision:
    """`decision` after the API server refused a child; `final` where asking again cannot help."""
    reason = CHILD_INVALID if final else "QuotaExceeded" if "exceeded quota" in message else "ChildRefused"
    hint = (
        "correct the field, mostly in spec.podTemplate, and apply the manifest again"
        if final
        else "it is tried again; ask the namespace's administrator for quota or permission"
    )
    said = failure(FailureClass.CONFIG_ERROR, reason, f"the API server refused a child of the job: {message}", hint)
    phase = Phase.FAILED if final else decision.phase
    return replace(_stalled(phase, said), closed=decision.closed)


RULES: tuple[Rule, ...] = (_finished, _not_started, _succeeded, _suspend, _failed, _start)
