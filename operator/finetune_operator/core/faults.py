"""Why an attempt ended: the first fault among its pods, put into a class with words and a hint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.progress import Failure, FailureClass, Outcome, failure_class
from finetune_operator.core.manifests import RULE_CLASSES
from finetune_operator.core.observe import Bucket, Ended, JobEnd, JobState, Observed, Pod
from finetune_operator.core.text import failure
from finetune_operator.core.times import seconds

SIGNALS = {134: "SIGABRT", 135: "SIGBUS", 137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}
ENDED_BY_DELETION = frozenset({75, 137, 143})
"""Exit codes with which a container answers to being stopped."""


@dataclass(frozen=True)
class Words:
    reason: str
    message: str
    hint: str


MORE_MEMORY = "raise spec.resources.memory, or lower spec.training.trainBatchSize or maxLength"
SEE_LOG = "read the pod's log: kubectl logs {pod} -n {namespace}"
WORDS: Mapping[FailureClass, Words] = {
    FailureClass.CONFIG_ERROR: Words("ConfigError", "the configuration does not work", SEE_LOG),
    FailureClass.DATA_ERROR: Words("DataError", "the data does not work", SEE_LOG),
    FailureClass.EVALUATION_GATE_FAILED: Words(
        "EvaluationGateFailed", "the model did not pass the evaluation gate", "the model is kept; see spec.evaluation"
    ),
    FailureClass.OUT_OF_MEMORY_GPU: Words(
        "OutOfMemoryGPU", "the GPU's memory was exhausted", "lower spec.training.trainBatchSize or maxLength"
    ),
    FailureClass.OUT_OF_MEMORY_HOST: Words("OutOfMemoryHost", "the pod's memory was exhausted", MORE_MEMORY),
    FailureClass.UNAVAILABLE: Words(
        "Unavailable", "a hub, a store or the network could not be reached", "check that pods reach it, and its secret"
    ),
    FailureClass.PREEMPTED: Words("Preempted", "the pod was told to stop", "nothing to do: it is started again"),
    FailureClass.EVICTED: Words("Evicted", "the pod was evicted", "nothing to do: it is started again"),
    FailureClass.NODE_LOST: Words(
        "NodeLost", "the pod's node is silent", "check the node: kubectl describe node {node}"
    ),
    FailureClass.POD_DELETED: Words("PodDeleted", "the pod was deleted", "nothing to do: it is started again"),
    FailureClass.IMAGE_PULL: Words("ImagePull", "the image could not be pulled", "check the image and its secret"),
    FailureClass.AUTH_ERROR: Words(
        "AuthError", "a hub or a store refused the credentials", "check the Secret that secretRef names"
    ),
    FailureClass.STORAGE_FULL: Words(
        "StorageFull", "a volume is full", "free or enlarge the volume of spec.output.uri"
    ),
    FailureClass.DEADLINE_EXCEEDED: Words(
        "DeadlineExceeded", "the run took too long", "raise spec.runPolicy.activeDeadlineSeconds, or train fewer steps"
    ),
    FailureClass.HARDWARE_ERROR: Words(
        "HardwareError", "a device of the node failed", "drain and repair the node: kubectl describe node {node}"
    ),
    FailureClass.UNSCHEDULABLE: Words(
        "Unschedulable", "the pods found no place together", "ask for less, or for nodes that there are"
    ),
    FailureClass.CHILD_REFUSED: Words(
        "ChildRefused", "the API server refused the pods", "ask the namespace's administrator for quota or permission"
    ),
    FailureClass.COLLECTIVE_TIMEOUT: Words(
        "CollectiveTimeout", "a process did not answer its peers in time", "see the log of every pod, and the network"
    ),
    FailureClass.HANG: Words("Hang", "the run made no step for too long", SEE_LOG),
    FailureClass.CODE_ERROR: Words("CodeError", "the training program failed", SEE_LOG),
}

DISRUPTIONS: Mapping[str, FailureClass] = {
    "PreemptionByScheduler": FailureClass.PREEMPTED,
    "TerminationByKubelet": FailureClass.EVICTED,
    "EvictionByEvictionAPI": FailureClass.EVICTED,
    "DeletionByTaintManager": FailureClass.NODE_LOST,
    "DeletionByPodGC": FailureClass.NODE_LOST,
}
POD_REASONS: Mapping[str, FailureClass] = {
    "Evicted": FailureClass.EVICTED,
    "Preempting": FailureClass.PREEMPTED,
    "NodeShutdown": FailureClass.PREEMPTED,
    "Terminated": FailureClass.PREEMPTED,
    "NodeLost": FailureClass.NODE_LOST,
}
NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
"""The image has no such program, or it cannot be executed: trying again does not help."""


@dataclass(frozen=True)
class Fault:
    """Why an attempt ended, and what its first failing pod said of metrics and checkpoint."""

    failure: Failure
    outcome: Outcome | None = None


def fault(observed: Observed, run: int, attempt: int, namespace: str) -> Fault | None:
    """Why this attempt is over; None while it is not, or if it succeeded."""
    pods, job = observed.of(run, attempt), observed.job(run, attempt)
    state = job.state if job else JobState.ABSENT
    lost = next((pod for pod in pods if pod.bucket is Bucket.LOST), None)
    if state is JobState.COMPLETE or (state is JobState.ACTIVE and lost is None):
        return None
    broken = [pod for pod in pods if pod.broken]
    if broken:
        return _fault_of_pod(min(broken, key=_order), namespace)
    if lost is not None:
        return Fault(_describe(FailureClass.NODE_LOST, lost, namespace))
    end = job.end if job else None
    if end is not None and end.rule is not None:
        return Fault(_failure_of_rule(end, end.rule, namespace))
    return Fault(_failure_of_nothing(end))


def _order(pod: Pod) -> tuple[float, bool, int]:
    """The earliest fault first. Times are whole seconds: what ended by itself goes before what was deleted."""
    finished = pod.ended.finished_at if pod.ended else None
    times = [seconds(finished)] if finished else []
    if pod.deletion_requested is not None:
        times.append(pod.deletion_requested)
    return min(times, default=float("inf")), pod.deletion_requested is not None, pod.rank


def _fault_of_pod(pod: Pod, namespace: str) -> Fault:
    outcome = pod.ended.outcome if pod.ended else None
    class_ = _class_of(pod)
    said = outcome.failure if outcome else None
    if said is None or said.class_ is not class_:
        return Fault(_describe(class_, pod, namespace), outcome)
    rank = pod.rank if said.rank is None else said.rank
    where = {"pod": pod.name, "node": pod.node, "rank": rank, "exit_code": _exit_code(pod)}
    return Fault(said.model_copy(update=where), outcome)


def _class_of(pod: Pod) -> FailureClass:
    if pod.ended is None:
        return _class_without_end(pod)
    if pod.ended.reason == "OOMKilled":
        return FailureClass.OUT_OF_MEMORY_HOST
    if pod.ended.exit_code in ENDED_BY_DELETION and (taken := _taken_away(pod)):
        return taken
    outcome = pod.ended.outcome
    if outcome is not None and outcome.failure is not None:
        return outcome.failure.class_
    if pod.ended.reason in NOT_STARTED:
        return FailureClass.CONFIG_ERROR
    return failure_class(pod.ended.exit_code)


def _taken_away(pod: Pod) -> FailureClass | None:
    """The class of a pod that somebody stopped from outside."""
    if pod.disruption is not None:
        return DISRUPTIONS.get(pod.disruption, FailureClass.EVICTED)
    if pod.reason is not None and pod.reason in POD_REASONS:
        return POD_REASONS[pod.reason]
    return FailureClass.POD_DELETED if pod.deletion_requested is not None else None


def _class_without_end(pod: Pod) -> FailureClass:
    """A pod whose containers never ran to an end: deleted, or turned away by its node."""
    return _taken_away(pod) or (FailureClass.POD_DELETED if pod.bucket is Bucket.GONE else FailureClass.EVICTED)


def _exit_code(pod: Pod) -> int | None:
    return pod.ended.exit_code if pod.ended else None


def _describe(class_: FailureClass, pod: Pod, namespace: str) -> Failure:
    words = WORDS[class_]
    details = [words.message]
    if pod.ended is not None:
        details.append(_how_it_ended(pod.ended))
    if pod.message:
        details.append(pod.message)
    return failure(
        class_,
        words.reason,
        f"pod {pod.name}: " + ": ".join(details),
        words.hint.format(pod=pod.name, node=pod.node, namespace=namespace),
        rank=pod.rank,
        pod=pod.name,
        node=pod.node,
        exit_code=_exit_code(pod),
        log_tail=pod.ended.log if pod.ended else None,
    )


def _how_it_ended(ended: Ended) -> str:
    signal = f" ({SIGNALS[ended.exit_code]})" if ended.exit_code in SIGNALS else ""
    return f"container {ended.container} ended with exit code {ended.exit_code}{signal}"


def _failure_of_rule(end: JobEnd, rule: int, namespace: str) -> Failure:
    """The pod is gone; the Job's condition says which rule it met."""
    class_ = RULE_CLASSES[rule] if rule < len(RULE_CLASSES) else FailureClass.CODE_ERROR
    words = WORDS[class_]
    return failure(
        class_,
        words.reason,
        f"{words.message}: {end.message}",
        words.hint.format(pod=end.pod or "POD", node="NODE", namespace=namespace),
        pod=end.pod,
        exit_code=end.exit_code,
    )


def _failure_of_nothing(end: JobEnd | None) -> Failure:
    """Neither a pod nor a rule tells anything: the Job or its pods were deleted."""
    words = WORDS[FailureClass.POD_DELETED]
    seen = f"the Job failed ({end.message or end.reason}) and no pod is left" if end else "the Job was deleted"
    return failure(FailureClass.POD_DELETED, words.reason, seen, words.hint)
