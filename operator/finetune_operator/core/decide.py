"""`decide`: what to do next, as a chain of rules of which the first that has an answer wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from finetune_api.names import attempt_name, run_service_name
from finetune_api.progress import Budget, Failure, FailureClass, Outcome
from finetune_api.status import TERMINAL, Phase
from finetune_operator.core import elastic
from finetune_operator.core.budgets import Verdict, backoff_seconds, judge, of_this_kind
from finetune_operator.core.exclusion import avoided_nodes
from finetune_operator.core.faults import WORDS, Fault, blocked, fault, not_started
from finetune_operator.core.observe import Bucket, JobState, Pod
from finetune_operator.core.plan import Plan, Refused
from finetune_operator.core.rules import matching_rule
from finetune_operator.core.scheduling import is_suspended_by_its_queue
from finetune_operator.core.situation import Situation
from finetune_operator.core.text import failure
from finetune_operator.core.times import elapsed
from finetune_operator.core.usage import running_seconds, seconds_in

GATE_SECONDS: Final = 30
"""How soon to look again where pods must go first; their events usually come before."""
FIRST_LOOK_SECONDS: Final = 2
"""How soon to ask why there are no pods yet: a quota refuses them at once, and only an Event tells."""
MAX_LOOK_SECONDS: Final = 300
CHILD_INVALID: Final = "ChildInvalid"
SUSPENDED: Final = "Suspended"


@dataclass(frozen=True)
class Closed:
    """The end of the current attempt, for the history and the budgets."""

    result: str
    failure: Failure | None = None
    outcome: Outcome | None = None
    restart: bool = False
    """Whether the next attempt is a restart, which counts against `budget` if there is one."""
    budget: Budget | None = None
    exclude_node: bool = False
    reason: str | None = None
    message: str | None = None
    nodes: int | None = None
    """Nodes that could be had, where the attempt ended for lack of more."""


@dataclass(frozen=True)
class Decision:
    """What to do, and what to say of it."""

    phase: Phase
    reason: str
    message: str = ""
    start: Plan | None = None
    """Create the children of this attempt."""
    fetch: bool = False
    """Of those to start, only the one that downloads."""
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
    look: bool = False
    """Read the Events about the children first: they may tell why there are no pods, or why those do not start."""


Rule = Callable[[Situation], Decision | None]


def decide(situation: Situation) -> Decision:
    for rule in RULES:
        decision = rule(situation)
        if decision is not None:
            return decision
    return _going_on(situation)


def _finished(s: Situation) -> Decision | None:
    status = s.job.status
    if status.phase not in TERMINAL or not s.current.started:
        return None
    keep = Decision(status.phase, "", keep=True)
    ttl = s.job.policy.ttl_seconds_after_finished
    if ttl is None or status.completion_time is None or not s.children:
        return keep
    left = ttl - elapsed(status.completion_time, s.now)
    if left > 0:
        return Decision(status.phase, "", keep=True, requeue_after=left)
    return Decision(status.phase, "", keep=True, clean=_all_names(s))


def _all_names(s: Situation) -> tuple[str, ...]:
    """Names of all children that the job can have left."""
    attempts = {attempt_name(s.job.name, s.job.uid, s.index, number) for number in range(1, s.attempt + 1)}
    services = {run_service_name(s.job.name, s.job.uid, run) for run in {s.index, *(job.run for job in s.children)}}
    return tuple(sorted(attempts | services | {job.name for job in s.children}))


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
    if s.closed or s.fetching or s.state is not JobState.COMPLETE:
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
    closed = None if s.closed else Closed(SUSPENDED)
    waiting = any(pod.live for pod in s.pods)
    message = "pods are saving their state" if waiting else "the hardware is given back"
    return Decision(Phase.SUSPENDED, SUSPENDED, message, stop=_stoppable(s), closed=closed)


def _stoppable(s: Situation) -> tuple[str, ...]:
    """Jobs up to the current attempt's that are not over. A later one may be there after a crash, and is wanted."""
    current = (s.index, s.attempt)
    jobs = (job for job in s.children if job.state in (JobState.ACTIVE, JobState.SUSPENDED))
    return tuple(job.name for job in jobs if (job.run, job.attempt) <= current)


def _fetched(s: Situation) -> Decision | None:
    """The downloads are there: now the hardware for training is asked for."""
    if s.closed or not s.fetching or s.state is not JobState.COMPLETE or not isinstance(s.plan, Plan):
        return None
    return _create(s, s.attempt, _sized(s, s.plan.with_attempt(s.attempt)), fetch=False)


def _failed(s: Situation) -> Decision | None:
    if s.closed or not s.current.started:
        return None
    found = fault(s.stage, s.index, s.attempt, s.job.namespace)
    return _after(s, found) if found is not None else None


def _after(s: Situation, found: Fault) -> Decision:
    """What follows a fault: another attempt, or the end."""
    rule = matching_rule(s.job.policy.rules, found.failure)
    verdict = judge(found.failure, rule, s.restarts, s.job.policy)
    if not verdict.restart:
        return _give_up(s, found, verdict.why)
    again = _restart(s, found, verdict)
    return _suspended_instead(again) if s.job.policy.suspend else again


def _suspended_instead(restart: Decision) -> Decision:
    """The attempt is over and counted; the next one waits until the job is resumed."""
    message = f"the hardware is given back; the last attempt ended early: {restart.message}"
    return replace(restart, phase=Phase.SUSPENDED, reason=SUSPENDED, message=message, failure=None, requeue_after=None)


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


def _restart(s: Situation, found: Fault, verdict: Verdict) -> Decision:
    class_ = found.failure.class_
    said = f"{found.failure.message} ({verdict.why})" if verdict.why else found.failure.message
    return Decision(
        Phase.RESTARTING,
        found.failure.reason,
        said,
        failure=found.failure,
        closed=Closed(
            "Failed",
            found.failure,
            found.outcome,
            restart=True,
            budget=verdict.budget,
            exclude_node=verdict.exclude_node,
        ),
        stop=_stoppable(s),
        confirm=True,
        requeue_after=backoff_seconds(class_, of_this_kind(class_, s.restarts)),
    )


def _deadline_left(s: Situation) -> float | None:
    most = s.job.policy.active_deadline_seconds
    return None if most is None else most - running_seconds(s.job.status, s.now)


def _deadline(s: Situation) -> Decision | None:
    """Running time counts over all attempts; waiting and being suspended do not."""
    left = _deadline_left(s)
    if left is None or left > 0 or s.job.status.phase is not Phase.RUNNING or s.closed:
        return None
    most = s.job.policy.active_deadline_seconds
    ran = f"the run has been running for {most} seconds, which is all that spec.runPolicy.activeDeadlineSeconds gives"
    return _give_up(s, Fault(_said(FailureClass.DEADLINE_EXCEEDED, ran)), "the model of the last checkpoint stays")


def _said(class_: FailureClass, message: str) -> Failure:
    return failure(class_, WORDS[class_].reason, message, WORDS[class_].hint.format(pod="POD", node="", namespace=""))


def _hang_left(s: Situation) -> float | None:
    """Seconds until a program that is not ours counts as hanging; ours watches itself."""
    most = s.job.policy.hang_timeout_seconds
    known = isinstance(s.plan, Plan) and s.plan.trainer.own_program and s.job.status.phase is Phase.RUNNING
    return most - elapsed(s.stepped_at, s.now) if known and most and s.stepped_at else None


def _hang(s: Situation) -> Decision | None:
    left = _hang_left(s)
    if left is None or left > 0 or s.closed:
        return None
    progress = s.job.status.progress
    place = f" since step {progress.step}" if progress and progress.step is not None else ""
    most = s.job.policy.hang_timeout_seconds
    said = f"the program has told of no step for {most} seconds{place} (spec.runPolicy.hangTimeoutSeconds)"
    return _after(s, Fault(_said(FailureClass.HANG, said)))


def _starting_for(s: Situation) -> float | None:
    """Seconds since the current attempt may have pods; None once all have run, or while its queue holds it."""
    child = s.child
    if s.closed or child is None or child.state is not JobState.ACTIVE or child.started is None:
        return None
    if s.job.status.phase is Phase.RUNNING or (s.nodes and s.up >= s.nodes):
        return None
    return elapsed(child.started, s.now)


def _resize(s: Situation) -> Decision | None:
    """Fewer nodes, where all of them could not be had in time."""
    waited = _starting_for(s)
    if waited is None or s.fetching or not isinstance(s.plan, Plan) or waited < s.plan.elastic.wait_seconds:
        return None
    size = elastic.placeable(s.plan, sum(pod.live and pod.node is not None for pod in s.pods))
    if size is None:
        return None
    wanted = f"{s.plan.nodes} nodes could not be had within {s.plan.elastic.wait_seconds} seconds"
    return _resized(s, elastic.SHRUNK, f"{wanted}; the next attempt goes on with {size}", size)


def _grow(s: Situation) -> Decision | None:
    left = _grow_left(s)
    if left is None or left > 0 or not isinstance(s.plan, Plan):
        return None
    size = elastic.full_size(s.plan)
    return _resized(s, elastic.GROWN, f"saved, to go on with {size} nodes instead of {s.plan.nodes}", size)


def _grow_left(s: Situation) -> float | None:
    if s.closed or s.job.status.phase is not Phase.RUNNING or not isinstance(s.plan, Plan):
        return None
    wait = elastic.grow_after(s.plan, s.job.status.history)
    return None if wait is None else wait - seconds_in(s.job.status, Phase.RUNNING, s.now)


def _resized(s: Situation, reason: str, message: str, nodes: int) -> Decision:
    closed = Closed(elastic.RESIZED, reason=reason, message=message, nodes=nodes)
    return Decision(
        Phase.RESTARTING, reason, message, stop=_stoppable(s), closed=closed, confirm=True, requeue_after=0.0
    )


def _late(s: Situation) -> Decision | None:
    """A gang that does not come together lets go of the hardware that it holds."""
    waited, most = _starting_for(s), s.job.policy.start_timeout_seconds
    if waited is None or waited < most:
        return None
    return _after(s, Fault(not_started(s.pods, s.observed.troubles, s.nodes, s.job.namespace, most)))


def _start(s: Situation) -> Decision | None:
    """The first attempt, or the next after one that is over: once no pod of another is left and the time has come."""
    if s.current.started and not s.closed:
        return None
    if isinstance(s.plan, Refused):
        return _stalled(Phase.FAILED, s.plan.failure)
    attempt = s.attempt + 1
    left = _still_live(s, attempt)
    if left:
        return _wait_for_pods(s, left)
    wait = _backoff_left(s)
    if wait > 0:
        return Decision(Phase.RESTARTING, *_why(s), failure=_known_fault(s), requeue_after=wait)
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
        phase, (reason, message) = Phase.RESTARTING, _why(s)
    return Decision(
        phase,
        reason,
        message,
        start=plan,
        fetch=fetch,
        failure=_known_fault(s) if phase is Phase.RESTARTING else None,
        confirm=s.current.started or s.index > 1,
        requeue_after=FIRST_LOOK_SECONDS if attempt == 1 else None,
    )


_NOT_LET_IN = ("Queued", "the queue has not let the job in yet")
_FETCHING = ("Fetching", "model and data are fetched into the cache; no GPU is held meanwhile")


def _wait_for_pods(s: Situation, left: tuple[Pod, ...]) -> Decision:
    reason, _ = _why(s) if s.restarting else ("WaitingForPods", "")
    return Decision(
        Phase.RESTARTING if s.restarting else Phase.PENDING,
        reason,
        f"pods of the former attempt must end first: {', '.join(pod.name for pod in left[:3])}",
        stop=_stoppable(s),
        failure=_known_fault(s) if s.restarting else None,
        requeue_after=GATE_SECONDS,
    )


def _why(s: Situation) -> tuple[str, str]:
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


def _going_on(s: Situation) -> Decision:
    """The current attempt's Job is there and not over."""
    if s.state is JobState.SUSPENDED:
        return _queued(s)
    status = s.job.status
    if not s.fetching and (status.phase is Phase.RUNNING or (s.nodes and s.up >= s.nodes)):
        return Decision(Phase.RUNNING, "Training", f"{s.nodes} pods are training", requeue_after=_next_look(s))
    again = s.restarting or (status.phase is Phase.QUEUED and s.has_run)
    phase = Phase.RESTARTING if again else Phase.PENDING
    decision = replace(_starting(s, phase), requeue_after=_next_look(s))
    return replace(decision, look=(_starting_for(s) or 0.0) >= FIRST_LOOK_SECONDS)


def _starting(s: Situation, phase: Phase) -> Decision:
    """What keeps the pods from running together."""
    stuck = blocked(s.pods, s.observed.troubles, s.job.namespace, s.nodes)
    if stuck is not None:
        return _stalled(phase, stuck)
    reason, message = _what_is_missing(s)
    return Decision(phase, reason, message, failure=_known_fault(s) if phase is Phase.RESTARTING else None)


def _queued(s: Situation) -> Decision:
    queue = s.child.queue if s.child else None
    reason, message = queue or _NOT_LET_IN
    return Decision(Phase.QUEUED, reason, message, requeue_after=s.observed.next_check)


def _known_fault(s: Situation) -> Failure | None:
    """The fault that the restart is about, unless the status has told of something else since."""
    known = s.job.status.failure
    return known if known and known.reason == _why(s)[0] else None


def _what_is_missing(s: Situation) -> tuple[str, str]:
    up = f"{s.up} of {s.nodes} pods are ready"
    waiting = next(((pod, pod.waiting) for pod in s.pods if pod.waiting), None)
    if waiting is not None:
        pod, (reason, message) = waiting
        return reason, f"{up}; {pod.name}: {message or reason}"
    if s.restarting:
        return _why(s)
    return _FETCHING if s.fetching else ("Starting", up)


def _next_look(s: Situation) -> float | None:
    """Seconds until something can be due that no event tells of."""
    times = [s.observed.next_check, _deadline_left(s), _hang_left(s), _grow_left(s)]
    waited = _starting_for(s)
    if waited is not None:
        times += [s.job.policy.start_timeout_seconds - waited]
        times += [min(MAX_LOOK_SECONDS, max(FIRST_LOOK_SECONDS, waited))]
        if isinstance(s.plan, Plan) and elastic.is_elastic(s.plan):
            times += [s.plan.elastic.wait_seconds - waited]
    return min((time for time in times if time is not None and time > 0), default=None)


def refused_by_server(decision: Decision, message: str, *, final: bool) -> Decision:
    """`decision` after the API server refused a child; `final` where asking again cannot help."""
    class_ = FailureClass.CONFIG_ERROR if final else FailureClass.CHILD_REFUSED
    reason = CHILD_INVALID if final else "QuotaExceeded" if "exceeded quota" in message else "ChildRefused"
    hint = (
        "correct the field, mostly in spec.podTemplate, and apply the manifest again"
        if final
        else "it is tried again; ask the namespace's administrator for quota or permission"
    )
    said = failure(class_, reason, f"the API server refused a child of the job: {message}", hint)
    phase = Phase.FAILED if final else decision.phase
    return replace(_stalled(phase, said), closed=decision.closed)


RULES: tuple[Rule, ...] = (
    _finished,
    _not_started,
    _succeeded,
    _suspend,
    _fetched,
    _failed,
    _deadline,
    _hang,
    _late,
    _resize,
    _grow,
    _start,
)
