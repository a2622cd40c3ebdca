"""Why an attempt ended or does not start: the first cause among its pods, put into a class with words and a hint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from finetune_api.progress import CLASS_OF_EXIT_CODE, ExitCode, Failure, FailureClass, Outcome, failure_class
from finetune_operator.core.events import Trouble, TroubleKind
from finetune_operator.core.lastwords import LastWords, last_words
from finetune_operator.core.manifests import RULE_CLASSES
from finetune_operator.core.observe import Bucket, Ended, JobEnd, JobState, Observed, Pod
from finetune_operator.core.obstacles import Obstacle, of_pod, of_refusal
from finetune_operator.core.symptoms import symptom_of
from finetune_operator.core.text import failure, signal_of
from finetune_operator.core.times import seconds

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
NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError"})
"""The image has no such program, or it cannot be executed: trying again does not help."""
OTHER_COMMAND = "name a program that the image has, by its path: spec.trainer.command"
NO_START = Words("StartError", "the container could not be started", OTHER_COMMAND)
NO_PROGRAM: Mapping[int, Words] = {
    126: Words("NotExecutable", "the program may not be executed", f"{OTHER_COMMAND}; it needs permission to execute"),
    127: Words("CommandNotFound", "the program was not found", OTHER_COMMAND),
}
"""Exit codes with which shells and container runtimes say that they could not start a program."""
VAGUE = frozenset({ExitCode.CODE_ERROR, ExitCode.KILLED})
"""Exit codes of which a log may know better what they mean."""
PEER_LOST = "PeerLost"
"""The reason of our trainer's Outcome where a rank only met the end of another."""
LAUNCHER_SECONDS = 120
"""How much later than its first worker a launcher may end: it stops the others first."""
MAX_NAMED = 5
"""Pods that a message names."""
UNKNOWN = Obstacle(
    FailureClass.UNAVAILABLE,
    "StartTimeout",
    "",
    "large images take their time: raise spec.runPolicy.startTimeoutSeconds, or see kubectl describe pod",
    waits=True,
)


@dataclass(frozen=True)
class Fault:
    """Why an attempt ended, and what its first failing pod said of metrics and checkpoint."""

    failure: Failure
    outcome: Outcome | None = None


def fault(observed: Observed, run: int, attempt: int, namespace: str) -> Fault | None:
    """Why this attempt is over; None while it is not, or if it succeeded."""
    pods, job = observed.of(run, attempt), observed.job(run, attempt)
    state = job.state if job else JobState.ABSENT
    lost = any(pod.bucket is Bucket.LOST for pod in pods)
    if state not in (JobState.ABSENT, JobState.FAILED) and not (state is JobState.ACTIVE and lost):
        return None
    ends = [_end(pod) for pod in pods if pod.broken or pod.bucket is Bucket.LOST]
    if ends:
        return _fault_of(_root_cause(ends), namespace)
    end = job.end if job else None
    if end is not None and end.rule is not None:
        return Fault(_failure_of_rule(end, end.rule, namespace))
    return Fault(_failure_of_nothing(end))


class Part(IntEnum):
    """What a pod's end has to do with the attempt's; of ends in the same second the lower number is the earlier."""

    CAUSE = 0
    """It failed by itself, or was taken from outside: evicted, preempted, its node lost."""
    CONSEQUENCE = 1
    """It only met the end of another rank."""
    DELETED = 2
    """Somebody deleted it: a person, or the Job that ends its other pods after a failure."""


@dataclass(frozen=True)
class End:
    """How a pod ended. `time` is in seconds since 1970, infinite where nobody knows it."""

    pod: Pod
    class_: FailureClass
    part: Part
    time: float
    words: LastWords

    @property
    def order(self) -> tuple[float, Part, int]:
        return self.time, self.part, self.pod.rank


def _root_cause(ends: Sequence[End]) -> End:
    """The earliest; where that is a consequence, the earliest cause, however late its container's end was told."""
    first = min(ends, key=lambda end: end.order)
    if first.part is not Part.CONSEQUENCE:
        return first
    causes = [end for end in ends if end.part is Part.CAUSE]
    return min(causes, key=lambda end: end.order, default=first)


def _end(pod: Pod) -> End:
    ended = pod.ended
    words = _last_words(ended) if ended is not None else LastWords()
    taken, told = _taken_away(pod), _class_told(pod, words)
    if taken is not None and (ended is None or _answers_a_stop(ended, told)):
        return End(pod, taken, _part_of_taken(pod), _time_of_taken(pod), words)
    return End(pod, told, _part(pod, words), _time_of_own(ended, words), words)


def _last_words(ended: Ended) -> LastWords:
    """What the log tells, or the Outcome where its CodeError says no more than that nobody knew the exception."""
    if ended.outcome is None:
        return last_words(ended.log)
    said = ended.outcome.failure
    found = symptom_of(said.message) if said is not None and said.class_ is FailureClass.CODE_ERROR else None
    if said is None or found is None:
        return LastWords()
    symptom = found.symptom
    return LastWords(symptom.class_, symptom.reason, said.message, symptom.hint, symptom.consequence)


def _class_told(pod: Pod, words: LastWords) -> FailureClass:
    """The class by the pod's own account: its Outcome, its container's state, its log, its exit code."""
    ended = pod.ended
    if ended is None:
        return _class_without_end(pod)
    if ended.reason == "OOMKilled":
        return FailureClass.OUT_OF_MEMORY_HOST
    if ended.outcome is not None and ended.outcome.failure is not None:
        return words.class_ or ended.outcome.failure.class_
    code = ended.exit_code if words.exit_code is None else words.exit_code
    if ended.reason in NOT_STARTED or code in NO_PROGRAM:
        return FailureClass.CONFIG_ERROR
    if words.class_ is not None and (code not in CLASS_OF_EXIT_CODE or code in VAGUE):
        return words.class_
    return failure_class(code)


def _answers_a_stop(ended: Ended, told: FailureClass) -> bool:
    return ended.exit_code in ENDED_BY_DELETION or (ended.outcome is None and told is FailureClass.PREEMPTED)


def _taken_away(pod: Pod) -> FailureClass | None:
    """The class of a pod that somebody stopped from outside."""
    if pod.disruption is not None:
        return DISRUPTIONS.get(pod.disruption, FailureClass.EVICTED)
    if pod.reason is not None and pod.reason in POD_REASONS:
        return POD_REASONS[pod.reason]
    if pod.bucket is Bucket.LOST:
        return FailureClass.NODE_LOST
    return FailureClass.POD_DELETED if pod.deletion_requested is not None else None


def _class_without_end(pod: Pod) -> FailureClass:
    """A pod whose containers never ran to an end and that nobody stopped: vanished, or turned away by its node."""
    return FailureClass.POD_DELETED if pod.bucket is Bucket.GONE else FailureClass.EVICTED


def _part_of_taken(pod: Pod) -> Part:
    outside = pod.disruption is not None or pod.reason in POD_REASONS or pod.bucket is Bucket.LOST
    return Part.CAUSE if outside else Part.DELETED


def _part(pod: Pod, words: LastWords) -> Part:
    outcome = pod.ended.outcome if pod.ended else None
    said = outcome.failure if outcome else None
    peer_lost = said is not None and said.reason == PEER_LOST
    return Part.CONSEQUENCE if peer_lost or words.consequence else Part.CAUSE


def _time_of_taken(pod: Pod) -> float:
    times = [] if pod.deletion_requested is None else [pod.deletion_requested]
    if pod.ended is not None and pod.ended.finished_at:
        times.append(seconds(pod.ended.finished_at))
    return min(times, default=float("inf"))


def _time_of_own(ended: Ended | None, words: LastWords) -> float:
    """The container's end, or the moment that torchrun gives where that is a little earlier.

    torchrun waits for its other workers before it ends. Its clock may show another time zone's hour.
    """
    if ended is None or not ended.finished_at:
        return float("inf")
    finished = seconds(ended.finished_at)
    early = words.time is not None and 0 <= finished - words.time <= LAUNCHER_SECONDS
    return words.time if early and words.time is not None else finished


def _fault_of(end: End, namespace: str) -> Fault:
    pod = end.pod
    outcome = pod.ended.outcome if pod.ended else None
    said = outcome.failure if outcome else None
    if said is None or (end.words.class_ or said.class_) is not end.class_:
        return Fault(_describe(end, namespace), outcome)
    code = _exit_code(end)
    known = _hint(end.words.hint, pod, namespace)
    where = {
        "class_": end.class_,
        "reason": end.words.reason or said.reason,
        "hint": known or said.hint,
        "pod": pod.name,
        "node": pod.node,
        "rank": pod.rank if said.rank is None else said.rank,
        "exit_code": code,
        "signal": said.signal or signal_of(code),
    }
    return Fault(said.model_copy(update=where), outcome)


def _exit_code(end: End) -> int | None:
    """The rank's own where a launcher tells it, else the container's."""
    own = end.words.exit_code
    return own if own is not None or end.pod.ended is None else end.pod.ended.exit_code


def _describe(end: End, namespace: str) -> Failure:
    """The failure of a pod that left no Outcome about it."""
    pod, ended = end.pod, end.pod.ended
    words = _words(end)
    details = [words.message]
    if ended is not None and words.message != end.words.message:
        details.append(_how_it_ended(ended, end.words))
    if ended is not None and ended.reason in NOT_STARTED:
        details.append((ended.log or "").strip().partition("\n")[0])
    details.append(pod.message or "")
    code = _exit_code(end)
    return failure(
        end.class_,
        words.reason,
        f"pod {pod.name}: " + ": ".join(filter(None, details)),
        _hint(words.hint, pod, namespace),
        rank=pod.rank if end.words.rank is None else end.words.rank,
        pod=pod.name,
        node=pod.node,
        exit_code=code,
        signal=signal_of(code),
        log_tail=ended.log if ended else None,
    )


def _hint(hint: str | None, pod: Pod, namespace: str) -> str | None:
    return hint.format(pod=pod.name, node=pod.node or "NODE", namespace=namespace) if hint else None


def _words(end: End) -> Words:
    """What the log says where it is about this class, else what the class says."""
    general, said, ended, code = WORDS[end.class_], end.words, end.pod.ended, _exit_code(end)
    if ended is not None and ended.outcome is None and code is not None and end.class_ is FailureClass.CONFIG_ERROR:
        general = NO_PROGRAM.get(code, NO_START if ended.reason in NOT_STARTED else general)
    fits = said.class_ is end.class_ or (said.class_ is None and end.class_ is FailureClass.CODE_ERROR)
    if not fits or said.message is None:
        return general
    return Words(said.reason or general.reason, said.message, said.hint or general.hint)


def _how_it_ended(ended: Ended, words: LastWords) -> str:
    if words.rank is not None and words.message is not None:
        return words.message
    name = signal_of(ended.exit_code)
    signal = f" ({name})" if name else ""
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
        signal=signal_of(end.exit_code),
    )


def _failure_of_nothing(end: JobEnd | None) -> Failure:
    """Neither a pod nor a rule tells anything: the Job or its pods were deleted."""
    words = WORDS[FailureClass.POD_DELETED]
    seen = f"the Job failed ({end.message or end.reason}) and no pod is left" if end else "the Job was deleted"
    return failure(FailureClass.POD_DELETED, words.reason, seen, words.hint)


def blocked(
    pods: Sequence[Pod], troubles: Sequence[Trouble], namespace: str, desired_nodes: int | None = None
) -> Failure | None:
    """What keeps an attempt from starting until a person acts; None while it merely waits.

    `troubles` are those of the attempt's Job and pods. Pods that were refused and are there now are refused no more,
    which `desired_nodes` tells.
    """
    refusal = _refusal(troubles, namespace)
    if refusal is not None and (desired_nodes is None or len(pods) < desired_nodes):
        return failure(refusal.class_, refusal.reason, refusal.message, refusal.hint)
    for pod in pods:
        found = of_pod(pod, troubles, namespace)
        if found is not None and not found.waits:
            return _failure_of_obstacle(found, pod, f"pod {pod.name}: {found.message}", found.hint)
    return None


def not_started(
    pods: Sequence[Pod], troubles: Sequence[Trouble], desired_nodes: int, namespace: str, seconds: float
) -> Failure:
    """Why not all pods ran together within `seconds`: which were missing, and what of."""
    missing = [pod for pod in pods if not (pod.ready or pod.bucket is Bucket.SUCCEEDED)]
    found = [(pod, of_pod(pod, troubles, namespace)) for pod in missing]
    absent = max(desired_nodes - len(pods), 0)
    refusal = _refusal(troubles, namespace) if absent else None
    up = max(desired_nodes - absent - len(missing), 0)
    message = f"{up} of {desired_nodes} pods ran together within {seconds:g} s"
    reasons = [*_absences(absent, refusal), *_reasons(found)]
    told = "; ".join([message, *reasons])
    if refusal is not None:
        return failure(refusal.class_, refusal.reason, told, refusal.hint)
    known = [(obstacle, pod) for pod, obstacle in found if obstacle is not None]
    if not known:
        return _failure_of_obstacle(UNKNOWN, missing[0] if missing else None, told, UNKNOWN.hint)
    obstacle, pod = min(known, key=lambda item: item[0].waits)
    longer = ", or raise spec.runPolicy.startTimeoutSeconds" if obstacle.waits else ""
    return _failure_of_obstacle(obstacle, pod, told, obstacle.hint + longer)


def _refusal(troubles: Iterable[Trouble], namespace: str) -> Obstacle | None:
    refused = next((trouble for trouble in troubles if trouble.kind is TroubleKind.REFUSED), None)
    return of_refusal(refused, namespace) if refused else None


def _failure_of_obstacle(obstacle: Obstacle, pod: Pod | None, message: str, hint: str) -> Failure:
    where = {} if pod is None else {"rank": pod.rank, "pod": pod.name, "node": pod.node}
    return failure(obstacle.class_, obstacle.reason, message, hint).model_copy(update=where)


def _absences(absent: int, refusal: Obstacle | None) -> list[str]:
    if not absent:
        return []
    why = refusal.message if refusal else "no Event tells why"
    return [f"{absent} {'pod was' if absent == 1 else 'pods were'} not created: {why}"]


def _reasons(found: Sequence[tuple[Pod, Obstacle | None]]) -> list[str]:
    """What the pods wait for, those that wait for the same thing together; at most five of them by name."""
    groups: dict[str, list[str]] = {}
    for pod, obstacle in found[:MAX_NAMED]:
        groups.setdefault(obstacle.message if obstacle else _state(pod), []).append(pod.name)
    told = [f"{', '.join(names)}: {message}" for message, names in groups.items()]
    return told + ([f"and {len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else [])


def _state(pod: Pod) -> str:
    if pod.bucket is Bucket.PENDING:
        return "its containers are being created" if pod.node else "it has no node yet"
    return {Bucket.RUNNING: "it runs and is not ready", Bucket.TERMINATING: "it is being deleted"}.get(
        pod.bucket, f"it is {pod.bucket}"
    )
