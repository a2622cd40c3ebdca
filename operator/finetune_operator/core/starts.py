"""Rules by which an attempt begins, and what is said until all of its pods run."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from finetune_api.progress import Failure
from finetune_api.status import Phase
from finetune_operator.core import elastic
from finetune_operator.core.budgets import backoff_seconds, of_this_kind
from finetune_operator.core.decision import CHILD_INVALID, Decision, stalled
from finetune_operator.core.due import FIRST_LOOK_SECONDS, next_look, starting_for
from finetune_operator.core.ends import SUSPENDED, stoppable
from finetune_operator.core.exclusion import avoided_nodes
from finetune_operator.core.faults import blocked
from finetune_operator.core.observe import JobState, Pod
from finetune_operator.core.plan import Plan, Refused
from finetune_operator.core.scheduling import is_suspended_by_its_queue
from finetune_operator.core.situation import Situation
from finetune_operator.core.times import elapsed

GATE_SECONDS: Final = 30
"""How soon to look again where pods must go first; their events usually come before."""
_NOT_LET_IN = ("Queued", "the queue has not let the job in yet")
_FETCHING = ("Fetching", "model and data are fetched into the cache; no GPU is held meanwhile")


def not_started(s: Situation) -> Decision | None:
    """A run that has no children yet: suspended, refused, or refused before and not changed since."""
    if s.current.started:
        return None
    if s.job.policy.suspend:
        return Decision(Phase.SUSPENDED, SUSPENDED, "spec.runPolicy.suspend is true; nothing was started")
    if isinstance(s.plan, Refused):
        phase = Phase.PENDING if s.plan.waits else Phase.FAILED
        return stalled(phase, s.plan.failure)
    status = s.job.status
    refused = status.failure is not None and status.failure.reason == CHILD_INVALID
    if refused and status.run == s.current.run:
        return Decision(Phase.FAILED, CHILD_INVALID, keep=True)
    return None


def fetched(s: Situation) -> Decision | None:
    """The downloads are there: now the hardware for training is asked for."""
    if s.closed or not s.fetching or s.state is not JobState.COMPLETE or not isinstance(s.plan, Plan):
        return None
    return _create(s, s.attempt, _sized(s, s.plan.with_attempt(s.attempt)), fetch=False)


def start(s: Situation) -> Decision | None:
    """The first attempt, or the next after one that is over: once no pod of another is left and the time has come."""
    if s.current.started and not s.closed:
        return None
    if isinstance(s.plan, Refused):
        return stalled(Phase.FAILED, s.plan.failure)
    attempt = s.attempt + 1
    left = _still_live(s, attempt)
    if left:
        return _wait_for_pods(s, left)
    wait = _backoff_left(s)
    if wait > 0:
        return Decision(Phase.RESTARTING, *why(s), failure=known_fault(s), requeue_after=wait)
    assert s.plan is not None
    plan = _sized(s, s.plan.with_attempt(attempt))
    return _create(s, attempt, plan, fetch=plan.fetches and not s.has_trained)


def _still_live(s: Situation, attempt: int) -> tuple[Pod, ...]:
    """Pods that must end before the attempt starts: all but those of its own Job, if that is there already."""
    own = (s.index, attempt) if s.observed.job(s.index, attempt) else None
    return tuple(pod for pod in s.observed.pods if pod.live and (pod.run, pod.attempt) != own)


def _sized(s: Situation, plan: Plan) -> Plan:
    """The plan with as many nodes as can be expected, away from those that have shown to be bad."""
    if elastic.is_elastic(plan) and plan.elastic.max_nodes is None:
        plan = replace(plan, elastic=plan.elastic.model_copy(update={"max_nodes": plan.nodes}))
    same_run = s.job.status.run is not None and s.job.status.run.index == s.index
    excluded = tuple(s.job.status.excluded_nodes or ()) if same_run else ()
    avoided = avoided_nodes(s.job.status.history, s.index)
    sized = plan.with_nodes(elastic.next_size(plan, s.job.status.history))
    return replace(sized, excluded=excluded, avoided=tuple(node for node in avoided if node not in excluded))


def _create(s: Situation, attempt: int, plan: Plan, *, fetch: bool) -> Decision:
    phase, reason, message = Phase.PENDING, "Starting", "children are created"
    if fetch:
        reason, message = _FETCHING
    elif is_suspended_by_its_queue(plan):
        phase, (reason, message) = Phase.QUEUED, _NOT_LET_IN
    if s.restarting:
        phase, (reason, message) = Phase.RESTARTING, why(s)
    return Decision(
        phase,
        reason,
        message,
        start=plan,
        fetch=fetch,
        failure=known_fault(s) if phase is Phase.RESTARTING else None,
        confirm=s.current.started or s.index > 1,
        requeue_after=FIRST_LOOK_SECONDS if attempt == 1 else None,
    )


def _wait_for_pods(s: Situation, left: tuple[Pod, ...]) -> Decision:
    reason, _ = why(s) if s.restarting else ("WaitingForPods", "")
    return Decision(
        Phase.RESTARTING if s.restarting else Phase.PENDING,
        reason,
        f"pods of the former attempt must end first: {', '.join(pod.name for pod in left[:3])}",
        stop=stoppable(s),
        failure=known_fault(s) if s.restarting else None,
        requeue_after=GATE_SECONDS,
    )


def why(s: Situation) -> tuple[str, str]:
    """Reason and message of the restart that is going on."""
    record = next((r for r in reversed(s.job.status.history) if r.run == s.index), None)
    if record is None or record.reason is None:
        return "Restarting", "the next attempt is started"
    return record.reason, record.message or ""


def _backoff_left(s: Situation) -> float:
    """Seconds until the next attempt may start."""
    record = next((r for r in reversed(s.job.status.history) if (r.run, r.attempt) == (s.index, s.attempt)), None)
    if record is None or record.end_time is None or record.result != "Failed" or record.class_ is None:
        return 0.0
    former = max(0, of_this_kind(record.class_, s.restarts) - 1)
    return backoff_seconds(record.class_, former) - elapsed(record.end_time, s.now)


def going_on(s: Situation) -> Decision:
    """The current attempt's Job is there and not over."""
    if s.state is JobState.SUSPENDED:
        return _queued(s)
    status = s.job.status
    if not s.fetching and (status.phase is Phase.RUNNING or (s.nodes and s.up >= s.nodes)):
        return Decision(Phase.RUNNING, "Training", f"{s.nodes} pods are training", requeue_after=next_look(s))
    again = s.restarting or (status.phase is Phase.QUEUED and s.has_run)
    phase = Phase.RESTARTING if again else Phase.PENDING
    decision = replace(_starting(s, phase), requeue_after=next_look(s))
    return replace(decision, look=(starting_for(s) or 0.0) >= FIRST_LOOK_SECONDS)


def _starting(s: Situation, phase: Phase) -> Decision:
    """What keeps the pods from running together."""
    stuck = blocked(s.pods, s.observed.troubles, s.job.namespace, s.nodes)
    if stuck is not None:
        return stalled(phase, stuck)
    reason, message = _what_is_missing(s)
    return Decision(phase, reason, message, failure=known_fault(s) if phase is Phase.RESTARTING else None)


def _queued(s: Situation) -> Decision:
    queue = s.child.queue if s.child else None
    reason, message = queue or _NOT_LET_IN
    return Decision(Phase.QUEUED, reason, message, requeue_after=s.observed.next_check)


def known_fault(s: Situation) -> Failure | None:
    """The fault that the restart is about, unless the status has told of something else since."""
    known = s.job.status.failure
    return known if known and known.reason == why(s)[0] else None


def _what_is_missing(s: Situation) -> tuple[str, str]:
    up = f"{s.up} of {s.nodes} pods are ready"
    waiting = next(((pod, pod.waiting) for pod in s.pods if pod.waiting), None)
    if waiting is not None:
        pod, (reason, message) = waiting
        return reason, f"{up}; {pod.name}: {message or reason}"
    if s.restarting:
        return why(s)
    return _FETCHING if s.fetching else ("Starting", up)
