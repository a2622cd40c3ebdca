"""Who places the pods of an attempt, when, and on which nodes: what that adds to the attempt's Job.

Everything here is laid over the podTemplates of the runtimes and of the job. Once the Job exists, its queue owns
`suspend`, node selectors and scheduling gates; the operator never patches them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from finetune_api.placement import Gang
from finetune_operator.core.plan import Plan
from finetune_operator.core.podtemplate import merge_pod

Part = dict[str, Any]

KUEUE_QUEUE: Final = "kueue.x-k8s.io/queue-name"
KUEUE_DEFAULT_QUEUE: Final = "default"
"""The LocalQueue that Kueue takes for a workload that names none."""
KUEUE_REQUIRED_TOPOLOGY: Final = "kueue.x-k8s.io/podset-required-topology"
KUEUE_PREFERRED_TOPOLOGY: Final = "kueue.x-k8s.io/podset-preferred-topology"

VOLCANO_SCHEDULER: Final = "volcano"
VOLCANO_QUEUE: Final = "scheduling.volcano.sh/queue-name"
VOLCANO_MEMBERS: Final = "scheduling.volcano.sh/group-min-member"

COSCHEDULER: Final = "scheduler-plugins-scheduler"
POD_GROUP_API: Final = "scheduling.x-k8s.io/v1alpha1"
POD_GROUP_LABEL: Final = "scheduling.x-k8s.io/pod-group"

GANG_OF_SCHEDULER: Final = {VOLCANO_SCHEDULER: Gang.VOLCANO, COSCHEDULER: Gang.COSCHEDULING}
HOSTNAME: Final = "kubernetes.io/hostname"
JOB_NAME: Final = "batch.kubernetes.io/job-name"
"""Label that the Job controller gives to each pod."""
REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
MOST_WEIGHT: Final = 100


def rendezvous_host(plan: Plan) -> str:
    """Where the first pod of the attempt is reached by the others."""
    return f"{plan.name}-0.{plan.service}" if plan.nodes > 1 else "127.0.0.1"


def gang(plan: Plan) -> Gang:
    """Who places the plan's pods; never Auto."""
    if plan.scheduling.gang is not Gang.AUTO:
        return plan.scheduling.gang
    if plan.scheduling.queue_name is not None:
        return Gang.KUEUE
    return GANG_OF_SCHEDULER.get(plan.pod_template.spec.get("schedulerName", ""), Gang.NONE)


def is_suspended_by_its_queue(plan: Plan) -> bool:
    """Whether a queue holds the Job back, and may suspend it while it runs."""
    return gang(plan) is Gang.KUEUE


def needs_pod_group(plan: Plan) -> bool:
    """Whether a PodGroup must stand before the pods; one pod alone is no gang."""
    return gang(plan) is Gang.COSCHEDULING and plan.nodes > 1


def scheduled(job: Part, plan: Plan) -> Part:
    """`job`, the Job of an attempt, as whoever places its pods reads it. `job` itself is not changed."""
    result = merge_pod(job, OVERLAYS[gang(plan)](plan))
    template = result["spec"]["template"]
    placed = {**template, "spec": _placed(template["spec"], plan)}
    return {**result, "spec": {**result["spec"], "template": placed}}


def _kueue(plan: Plan) -> Part:
    """Held back until its LocalQueue admits it as a whole; Kueue then starts it, and places it by topology."""
    return {
        "metadata": {"labels": {KUEUE_QUEUE: plan.scheduling.queue_name or KUEUE_DEFAULT_QUEUE}},
        "spec": {"suspend": True, "template": {"metadata": {"annotations": _kueue_topology(plan)}}},
    }


def _kueue_topology(plan: Plan) -> dict[str, str]:
    topology = plan.scheduling.topology
    wanted = {KUEUE_REQUIRED_TOPOLOGY: topology.required, KUEUE_PREFERRED_TOPOLOGY: topology.preferred}
    return {annotation: label for annotation, label in wanted.items() if label is not None and plan.nodes > 1}


def _volcano(plan: Plan) -> Part:
    """Volcano makes the PodGroup of a batch/v1 Job by itself: its size from the Job, its queue from the pods.

    https://volcano.sh/en/docs/tutorials/ ("Deploy Standard Kubernetes Workloads") has the annotation for the size;
    that a Job's is read, and the queue from the pod, stands in volcano-sh/volcano,
    pkg/controllers/podgroup/pg_controller_handler.go.
    """
    queue = plan.scheduling.queue_name
    return {
        "metadata": {"annotations": {VOLCANO_MEMBERS: str(plan.nodes)}},
        "spec": {
            "template": {
                "metadata": {"annotations": {VOLCANO_QUEUE: queue} if queue else {}},
                "spec": {"schedulerName": _scheduler(plan, VOLCANO_SCHEDULER)},
            }
        },
    }


def _coscheduling(plan: Plan) -> Part:
    """The coscheduling plugin of kubernetes-sigs/scheduler-plugins: the pods name a PodGroup.

    https://scheduler-plugins.sigs.k8s.io/docs/plugins/coscheduling/
    """
    label = {POD_GROUP_LABEL: plan.name} if needs_pod_group(plan) else {}
    spec = {"schedulerName": _scheduler(plan, COSCHEDULER)}
    return {"spec": {"template": {"metadata": {"labels": label}, "spec": spec}}}


def _scheduler(plan: Plan, usual: str) -> str:
    """A scheduler may be installed under another name, which the podTemplate then has."""
    return str(plan.pod_template.spec.get("schedulerName") or usual)


OVERLAYS: Final[dict[Gang, Callable[[Plan], Part]]] = {
    Gang.NONE: lambda _: {},
    Gang.KUEUE: _kueue,
    Gang.VOLCANO: _volcano,
    Gang.COSCHEDULING: _coscheduling,
}


def _placed(pod: Part, plan: Plan) -> Part:
    """The pod with its priority, near its peers, and off the nodes that failed before."""
    priority = plan.scheduling.priority_class_name
    affinity = off_faulty_nodes(_near_peers(pod.get("affinity") or {}, plan), plan)
    return {
        **pod,
        **({"priorityClassName": priority} if priority else {}),
        **({"affinity": affinity} if affinity else {}),
    }


def _near_peers(affinity: Part, plan: Plan) -> Part:
    """Without Kueue, which counts the room of a place before it admits, the pods attract each other."""
    topology = plan.scheduling.topology
    label = topology.required or topology.preferred
    if label is None or plan.nodes == 1 or gang(plan) is Gang.KUEUE:
        return affinity
    term = {"labelSelector": {"matchLabels": {JOB_NAME: plan.name}}, "topologyKey": label}
    if topology.required:
        return _with(affinity, "podAffinity", REQUIRED, term)
    return _with(affinity, "podAffinity", PREFERRED, {"weight": MOST_WEIGHT, "podAffinityTerm": term})


def off_faulty_nodes(affinity: Part, plan: Plan) -> Part:
    """`affinity` that keeps pods off the plan's excluded nodes, and off the avoided ones where there are others.

    Nodes are told by the label kubernetes.io/hostname and not by the field metadata.name, which Karpenter refuses.
    """
    result = _without_nodes(affinity, plan.excluded) if plan.excluded else affinity
    if not plan.avoided:
        return result
    preference = {"matchExpressions": [_none_of(plan.avoided)]}
    return _with(result, "nodeAffinity", PREFERRED, {"weight": MOST_WEIGHT, "preference": preference})


def _without_nodes(affinity: Part, nodes: tuple[str, ...]) -> Part:
    """One of the terms must hold, so the nodes are left out of each; an empty term holds for no node and stays so."""
    of_nodes = affinity.get("nodeAffinity") or {}
    former = (of_nodes.get(REQUIRED) or {}).get("nodeSelectorTerms") or []
    rule = _none_of(nodes)
    terms = [_and(term, rule) if any(term.values()) else term for term in former] or [_and({}, rule)]
    return {**affinity, "nodeAffinity": {**of_nodes, REQUIRED: {"nodeSelectorTerms": terms}}}


def _and(term: Part, rule: Part) -> Part:
    return {**term, "matchExpressions": [*(term.get("matchExpressions") or []), rule]}


def _none_of(nodes: tuple[str, ...]) -> Part:
    return {"key": HOSTNAME, "operator": "NotIn", "values": list(nodes)}


def _with(affinity: Part, kind: str, strength: str, term: Part) -> Part:
    """`affinity` with one more term in a list of it."""
    of_kind = affinity.get(kind) or {}
    return {**affinity, kind: {**of_kind, strength: [*(of_kind.get(strength) or []), term]}}
