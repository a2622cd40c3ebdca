"""Rules by which an attempt, or the whole run, ends: done, suspended, failed, too long, too late, of another size."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from finetune_api.names import attempt_name, run_service_name
from finetune_api.progress import Failure, FailureClass, Outcome
from finetune_api.status import TERMINAL, Phase
from finetune_operator.core import elastic
from finetune_operator.core.budgets import Verdict, backoff_seconds, judge, of_this_kind
from finetune_operator.core.decision import Closed, Decision
from finetune_operator.core.due import deadline_left, grow_left, hang_left, starting_for
from finetune_operator.core.faults import WORDS, Fault, fault
from finetune_operator.core.faults import not_started as fault_of_the_late
from finetune_operator.core.observe import Bucket, JobState
from finetune_operator.core.plan import Plan
from finetune_operator.core.rules import matching_rule
from finetune_operator.core.situation import Situation
from finetune_operator.core.text import failure
from finetune_operator.core.times import elapsed

SUSPENDED: Final = "Suspended"


def finished(s: Situation) -> Decision | None:
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


def succeeded(s: Situation) -> Decision | None:
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


def suspend(s: Situation) -> Decision | None:
    if not s.job.policy.suspend or (s.state is JobState.FAILED and not s.closed):
        return None
    closed = None if s.closed else Closed(SUSPENDED)
    waiting = any(pod.live for pod in s.pods)
    message = "pods are saving their state" if waiting else "the hardware is given back"
    return Decision(Phase.SUSPENDED, SUSPENDED, message, stop=stoppable(s), closed=closed)


def stoppable(s: Situation) -> tuple[str, ...]:
    """Jobs up to the current attempt's that are not over. A later one may be there after a crash, and is wanted."""
    current = (s.index, s.attempt)
    jobs = (job for job in s.children if job.state in (JobState.ACTIVE, JobState.SUSPENDED))
    return tuple(job.name for job in jobs if (job.run, job.attempt) <= current)


def failed(s: Situation) -> Decision | None:
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
        stop=stoppable(s),
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
        stop=stoppable(s),
        confirm=True,
        requeue_after=backoff_seconds(class_, of_this_kind(class_, s.restarts)),
    )


def deadline(s: Situation) -> Decision | None:
    """Running time counts over all attempts; waiting and being suspended do not."""
    left = deadline_left(s)
    if left is None or left > 0 or s.job.status.phase is not Phase.RUNNING or s.closed:
        return None
    most = s.job.policy.active_deadline_seconds
    ran = f"the run has been running for {most} seconds, which is all that spec.runPolicy.activeDeadlineSeconds gives"
    return _give_up(s, Fault(_said(FailureClass.DEADLINE_EXCEEDED, ran)), "the model of the last checkpoint stays")


def _said(class_: FailureClass, message: str) -> Failure:
    return failure(class_, WORDS[class_].reason, message, WORDS[class_].hint.format(pod="POD", node="", namespace=""))


def hang(s: Situation) -> Decision | None:
    left = hang_left(s)
    if left is None or left > 0 or s.closed:
        return None
    progress = s.job.status.progress
    place = f" since step {progress.step}" if progress and progress.step is not None else ""
    most = s.job.policy.hang_timeout_seconds
    said = f"the program has told of no step for {most} seconds{place} (spec.runPolicy.hangTimeoutSeconds)"
    return _after(s, Fault(_said(FailureClass.HANG, said)))


def late(s: Situation) -> Decision | None:
    """A gang that does not come together lets go of the hardware that it holds."""
    waited, most = starting_for(s), s.job.policy.start_timeout_seconds
    if waited is None or waited < most:
        return None
    return _after(s, Fault(fault_of_the_late(s.pods, s.observed.troubles, s.nodes, s.job.namespace, most)))


def resize(s: Situation) -> Decision | None:
    """Fewer nodes, where all of them could not be had in time."""
    waited = starting_for(s)
    if waited is None or s.fetching or not isinstance(s.plan, Plan) or waited < s.plan.elastic.wait_seconds:
        return None
    size = elastic.placeable(s.plan, sum(pod.live and pod.node is not None for pod in s.pods))
    if size is None:
        return None
    wanted = f"{s.plan.nodes} nodes could not be had within {s.plan.elastic.wait_seconds} seconds"
    return _resized(s, elastic.SHRUNK, f"{wanted}; the next attempt goes on with {size}", size)


def grow(s: Situation) -> Decision | None:
    left = grow_left(s)
    if left is None or left > 0 or not isinstance(s.plan, Plan):
        return None
    size = elastic.full_size(s.plan)
    return _resized(s, elastic.GROWN, f"saved, to go on with {size} nodes instead of {s.plan.nodes}", size)


def _resized(s: Situation, reason: str, message: str, nodes: int) -> Decision:
    closed = Closed(elastic.RESIZED, reason=reason, message=message, nodes=nodes)
    return Decision(
        Phase.RESTARTING, reason, message, stop=stoppable(s), closed=closed, confirm=True, requeue_after=0.0
    )
