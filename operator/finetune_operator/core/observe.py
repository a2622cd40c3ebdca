"""`observe`: the children of a job, sorted once into words with a stated meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune_api.names import CONTAINER, LABEL_ATTEMPT, LABEL_ROLE, LABEL_RUN, ROLE_FETCH
from finetune_api.progress import Outcome
from finetune_operator.core.events import Trouble, troubles
from finetune_operator.core.job import Raw
from finetune_operator.core.times import elapsed, seconds

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
RULE = re.compile(r"matching FailJob rule at index (\d+)")
EXIT_CODE = re.compile(r"failed with exit code (\d+)")
POD = re.compile(r"for pod [^/ ]+/(\S+)")


class Bucket(StrEnum):
    """Where a pod is in its life. The first three may still run: they are live."""

    PENDING = "pending"
    RUNNING = "running"
    TERMINATING = "terminating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """Not ended, but its node has been silent for so long that it counts as ended."""
    GONE = "gone"
    """Deleted; what it said last is known."""


LIVE = frozenset({Bucket.PENDING, Bucket.RUNNING, Bucket.TERMINATING})


class JobState(StrEnum):
    ABSENT = "absent"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Its queue holds it back: it has no pods, or they are being ended."""
    COMPLETE = "complete"
    FAILED = "failed"
    """It is certain to fail, although other pods may still be saving."""


@dataclass(frozen=True)
class NodeHealth:
    """Whether a node is ready, and since when; a node that does not exist has been silent for ever."""

    ready: bool
    since: str


@dataclass(frozen=True)
class Children:
    """What the cluster has of one job. `gone` are pods that were deleted, as they were last seen."""

    jobs: tuple[Raw, ...] = ()
    pods: tuple[Raw, ...] = ()
    gone: tuple[Raw, ...] = ()
    nodes: Mapping[str, NodeHealth] = field(default_factory=dict)
    workloads: tuple[Raw, ...] = ()
    """Kueue's."""
    events: tuple[Raw, ...] = ()
    """Warnings about the children, where somebody has asked for them."""


@dataclass(frozen=True)
class Ended:
    """How a container ended. `outcome` is what our trainer said, `log` what any other program did."""

    container: str
    exit_code: int
    reason: str
    finished_at: str | None
    outcome: Outcome | None = None
    log: str | None = None


@dataclass(frozen=True)
class Pod:
    name: str
    run: int
    attempt: int
    rank: int
    node: str | None
    bucket: Bucket
    ready: bool = False
    waiting: tuple[str, str] | None = None
    """Reason and message of what keeps it from running."""
    ended: Ended | None = None
    """The container that ended first with a fault, else the trainer's end."""
    deletion_requested: float | None = None
    disruption: str | None = None
    reason: str | None = None
    message: str | None = None
    role: str = ""
    created: str | None = None
    image_digest: str | None = None

    @property
    def live(self) -> bool:
        return self.bucket in LIVE

    @property
    def broken(self) -> bool:
        """Whether it ended without success, or was taken away before it ended."""
        if self.bucket is Bucket.GONE:
            return self.ended is None or self.ended.exit_code != 0
        return self.bucket is Bucket.FAILED or (self.ended is not None and self.ended.exit_code != 0)


@dataclass(frozen=True)
class JobEnd:
    """What the Job's Failed condition keeps of the pod that failed it."""

    reason: str
    message: str
    rule: int | None
    exit_code: int | None
    pod: str | None


@dataclass(frozen=True)
class ChildJob:
    name: str
    run: int
    attempt: int
    state: JobState
    created: str | None = None
    end: JobEnd | None = None
    role: str = ""
    started: str | None = None
    """Since when it may have pods: its creation, or the latest moment at which its queue let it go."""
    was_held: bool = False
    """Whether its queue has ever held it back."""
    nodes: int | None = None
    queue: tuple[str, str] | None = None
    """Reason and message of its queue, while that holds it back."""


@dataclass(frozen=True)
class Observed:
    """Everything that was seen of a job's children: of those that train; `fetching` has those that only download."""

    jobs: tuple[ChildJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    next_check: float | None = None
    """Seconds until a pod on a silent node counts as lost."""
    fetching: Observed | None = None
    troubles: tuple[Trouble, ...] = ()

    def job(self, run: int, attempt: int) -> ChildJob | None:
        return next((job for job in self.jobs if (job.run, job.attempt) == (run, attempt)), None)

    def state(self, run: int, attempt: int) -> JobState:
        job = self.job(run, attempt)
        return job.state if job else JobState.ABSENT

    def of(self, run: int, attempt: int) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if (pod.run, pod.attempt) == (run, attempt))

    def live_outside(self, run: int, attempt: int) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.live and (pod.run, pod.attempt) != (run, attempt))


def observe(children: Children, now: str, node_lost_seconds: int) -> Observed:
    """`children` sorted. A pod counts as lost `node_lost_seconds` after its node fell silent."""
    pods = [_pod(raw, children.nodes, now, node_lost_seconds) for raw in children.pods]
    present = {pod.name for pod in pods}
    gone = [_gone(raw) for raw in children.gone if raw["metadata"]["name"] not in present]
    jobs = tuple(_child_job(raw, _queue_of(raw, children.workloads)) for raw in children.jobs)
    known = sorted([*pods, *gone], key=lambda pod: (pod.run, pod.attempt, pod.rank, pod.name))
    current = tuple(pod for pod in known if not _of_an_earlier_start(pod, jobs))
    check = _next_check(children, now, node_lost_seconds)
    fetch_jobs, jobs = _parted(jobs)
    fetch_pods, train_pods = _parted(current)
    fetching = Observed(fetch_jobs, fetch_pods, check) if fetch_jobs or fetch_pods else None
    return Observed(jobs, train_pods, check, fetching, troubles(children.events))


Child = TypeVar("Child", "ChildJob", "Pod")


def _parted(children: tuple[Child, ...]) -> tuple[tuple[Child, ...], tuple[Child, ...]]:
    """Those that download, and those that train."""
    fetching = tuple(child for child in children if child.role == ROLE_FETCH)
    return fetching, tuple(child for child in children if child.role != ROLE_FETCH)


def _of_an_earlier_start(pod: Pod, jobs: tuple[ChildJob, ...]) -> bool:
    """Whether the pod ended before its Job's queue let the Job go again: it says nothing about the present gang."""
    wanted = (pod.run, pod.attempt, pod.role)
    job = next((job for job in jobs if (job.run, job.attempt, job.role) == wanted), None)
    if pod.live or job is None or not job.was_held or job.started is None or pod.created is None:
        return False
    return seconds(pod.created) < seconds(job.started)


def nodes_in_doubt(pods: Iterable[Raw]) -> set[str]:
    """Nodes whose health matters: of pods that were declared not ready by another than the kubelet, or must end."""
    return {raw["spec"]["nodeName"] for raw in pods if _in_doubt(raw)}


def _in_doubt(raw: Raw) -> bool:
    metadata, status = raw["metadata"], raw.get("status", {})
    if not raw.get("spec", {}).get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return False
    return "deletionTimestamp" in metadata or (status.get("phase") == "Running" and _declared_not_ready(status))


def _declared_not_ready(status: Raw) -> bool:
    """The node controller takes readiness away without a reason; the kubelet gives one."""
    ready = next((condition for condition in _conditions(status) if condition.get("type") == "Ready"), None)
    return ready is not None and ready.get("status") != "True" and ready.get("reason") not in KUBELETS_REASONS


def _silent_for(raw: Raw, nodes: Mapping[str, NodeHealth], now: str) -> float | None:
    health = nodes.get(raw.get("spec", {}).get("nodeName", ""))
    return elapsed(health.since, now) if health and not health.ready and _in_doubt(raw) else None


def _next_check(children: Children, now: str, node_lost_seconds: int) -> float | None:
    silences = (_silent_for(raw, children.nodes, now) for raw in children.pods)
    left = [node_lost_seconds - silence for silence in silences if silence is not None and silence < node_lost_seconds]
    return min(left, default=None)


def _pod(raw: Raw, nodes: Mapping[str, NodeHealth], now: str, node_lost_seconds: int) -> Pod:
    silence = _silent_for(raw, nodes, now)
    lost = silence is not None and silence >= node_lost_seconds
    return _view(raw, Bucket.LOST if lost else _bucket(raw))


def _gone(raw: Raw) -> Pod:
    phase = raw.get("status", {}).get("phase")
    return _view(raw, Bucket.SUCCEEDED if phase == "Succeeded" else Bucket.GONE)


def _bucket(raw: Raw) -> Bucket:
    phase = raw.get("status", {}).get("phase")
    if phase == "Succeeded":
        return Bucket.SUCCEEDED
    if phase == "Failed":
        return Bucket.FAILED
    if "deletionTimestamp" in raw["metadata"]:
        return Bucket.TERMINATING
    return Bucket.RUNNING if phase == "Running" else Bucket.PENDING


def _view(raw: Raw, bucket: Bucket) -> Pod:
    metadata, status = raw["metadata"], raw.get("status", {})
    labels = metadata.get("labels", {})
    return Pod(
        name=metadata["name"],
        run=int(labels.get(LABEL_RUN, 0)),
        attempt=int(labels.get(LABEL_ATTEMPT, 0)),
        rank=int(metadata.get("annotations", {}).get(INDEX_ANNOTATION, 0)),
        node=raw.get("spec", {}).get("nodeName"),
        bucket=bucket,
        ready=_is_true(status, "Ready"),
        waiting=_waiting(status) if bucket is Bucket.PENDING else None,
        ended=_ended(status),
        deletion_requested=_deletion_requested(metadata),
        disruption=next((c.get("reason", "") for c in _conditions(status) if _holds(c, "DisruptionTarget")), None),
        reason=status.get("reason"),
        message=status.get("message"),
        role=labels.get(LABEL_ROLE, ""),
        created=metadata.get("creationTimestamp"),
        image_digest=_image_digest(status),
    )


def _image_digest(status: Raw) -> str | None:
    """`registry/image@sha256:…` of the training container, as the node pulled it."""
    found = (one.get("imageID") for one in status.get("containerStatuses") or [] if one["name"] == CONTAINER)
    return next((image for image in found if image and "@" in image), None)


def _conditions(status: Raw) -> list[Raw]:
    return status.get("conditions") or []


def _holds(condition: Raw, kind: str) -> bool:
    return condition.get("type") == kind and condition.get("status") == "True"


def _is_true(status: Raw, kind: str) -> bool:
    return any(_holds(condition, kind) for condition in _conditions(status))


def _deletion_requested(metadata: Raw) -> float | None:
    """When somebody asked for the deletion; the timestamp itself is the end of the grace period."""
    if "deletionTimestamp" not in metadata:
        return None
    return seconds(metadata["deletionTimestamp"]) - float(metadata.get("deletionGracePeriodSeconds") or 0)


KUBELETS_REASONS = frozenset({"ContainersNotReady", "PodCompleted", "PodFailed"})
QUIET = frozenset({"ContainerCreating", "PodInitializing"})
SAME = {"ErrImagePull": "ImagePullBackOff"}
"""Reasons that take turns, told as one, and so are their messages: each flip would be a write."""


def _waiting(status: Raw) -> tuple[str, str] | None:
    for condition in _conditions(status):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return "Unschedulable", condition.get("message", "")
    for container in _container_statuses(status):
        waiting = container.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason and reason not in QUIET:
            return SAME.get(reason, reason), waiting.get("message", "").split("ErrImagePull: ", 1)[-1]
    return None


def _container_statuses(status: Raw) -> list[Any]:
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _ended(status: Raw) -> Ended | None:
    ends = [
        _end_of(container["name"], terminated)
        for container in _container_statuses(status)
        if (terminated := container.get("state", {}).get("terminated"))
    ]
    faults = [end for end in ends if end.exit_code != 0]
    if faults:
        return min(faults, key=lambda end: end.finished_at or "")
    return next((end for end in ends if end.container == CONTAINER), None)


def _end_of(container: str, terminated: Raw) -> Ended:
    message = terminated.get("message")
    outcome = read_outcome(message)
    return Ended(
        container=container,
        exit_code=int(terminated.get("exitCode", 0)),
        reason=terminated.get("reason", ""),
        finished_at=terminated.get("finishedAt"),
        outcome=outcome,
        log=message if outcome is None else None,
    )


def read_outcome(message: str | None) -> Outcome | None:
    """What our trainer left as its termination message; None where another program wrote it."""
    if not message or not message.lstrip().startswith("{"):
        return None
    try:
        return Outcome.model_validate_json(message, extra="ignore")
    except ValidationError:
        return None


def _child_job(raw: Raw, queue: tuple[str, str] | None) -> ChildJob:
    labels, status, spec = raw["metadata"].get("labels", {}), raw.get("status", {}), raw.get("spec", {})
    failed = next((one for one in _conditions(status) if _holds(one, "FailureTarget") or _holds(one, "Failed")), None)
    held = JobState.SUSPENDED if spec.get("suspend") else JobState.ACTIVE
    state = JobState.COMPLETE if _is_true(status, "Complete") else JobState.FAILED if failed else held
    return ChildJob(
        name=raw["metadata"]["name"],
        run=int(labels.get(LABEL_RUN, 0)),
        attempt=int(labels.get(LABEL_ATTEMPT, 0)),
        state=state,
        created=raw["metadata"].get("creationTimestamp"),
        end=_job_end(failed) if failed else None,
        role=labels.get(LABEL_ROLE, ""),
        started=status.get("startTime"),
        was_held=any(one.get("type") == "Suspended" for one in _conditions(status)),
        nodes=spec.get("completions"),
        queue=queue if state is JobState.SUSPENDED else None,
    )


def _queue_of(job: Raw, workloads: Iterable[Raw]) -> tuple[str, str] | None:
    """What Kueue says of the Job: why it was put out, else why it is not let in."""
    name = job["metadata"]["name"]
    for workload in workloads:
        if any(owner.get("name") == name for owner in workload["metadata"].get("ownerReferences", [])):
            return _queues_word(workload.get("status", {}))
    return None


def _queues_word(status: Raw) -> tuple[str, str] | None:
    refused = ("QuotaReserved", "Admitted")
    said = [one for kind in refused for one in _conditions(status) if one.get("type") == kind and not _holds(one, kind)]
    evicted = [one for one in _conditions(status) if _holds(one, "Evicted")]
    words = [*evicted, *said]
    if not words:
        return None
    messages = dict.fromkeys(one.get("message", "") for one in words if one.get("message"))
    return words[0].get("reason") or "Queued", "; ".join(messages)


def _job_end(condition: Raw) -> JobEnd:
    message = condition.get("message", "")
    rule, exit_code, pod = (pattern.search(message) for pattern in (RULE, EXIT_CODE, POD))
    return JobEnd(
        reason=condition.get("reason", ""),
        message=message,
        rule=int(rule[1]) if rule else None,
        exit_code=int(exit_code[1]) if exit_code else None,
        pod=pod[1] if pod else None,
    )
