"""The pod that downloads what a run reads, before the run holds an accelerator or a place in a queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from finetune_api import names
from finetune_api.placement import Resources, TrainerOverride
from finetune_operator.core.plan import Plan
from finetune_operator.core.pod import Endpoint, claim_volumes, pod_template
from finetune_operator.core.scheduling import REQUIRED, off_faulty_nodes

Part = dict[str, Any]

COMMAND: Final = ("python", "-m", "finetune_trainer.fetch")
RESOURCES: Final = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "4", "memory": "4Gi"}}
GRACE_SECONDS: Final = 30
"""It has nothing to save: what is downloaded in part is resumed, or thrown away."""

ACCELERATOR_LABELS: Final = (
    "nvidia.com/",
    "gpu.nvidia.com/",
    "amd.com/",
    "gpu.intel.com/",
    "cloud.google.com/gke-accelerator",
    "cloud.google.com/gke-gpu",
    "cloud.google.com/gke-tpu",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu",
    "feature.node.kubernetes.io/pci-",
    "node.kubernetes.io/instance-type",
)
"""Starts of labels that tell nodes with accelerators from others."""
PLAIN_RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
NOT_FOR_A_DOWNLOAD: Final = ("args", "ports", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
"""Of the training container's fields: they belong to the program that trains."""


def fetch_template(plan: Plan, labels: dict[str, str], endpoint: Endpoint) -> Part:
    """The template of the pod that fills the cache for `plan`.

    It is the training pod's, with its security context, service account, secrets, environment, runtimes' volumes, pull
    secrets and tolerations, so that it can reach whatever training could; but for what follows from its purpose:

    - Of the run's claims it mounts only the cache. Another could bind to a place that has no accelerators.
    - It asks for no device, and leaves the labels of accelerators out of node selector and node affinity: a cluster
      that starts nodes on demand must not start a GPU node for a download. All other labels stay: they may say where
      the team, the architecture or the volumes are. Affinity to other pods and spreading are about gangs, and go.
    - Containers beside it stay, as the way to the network may be theirs; those that ask for a device go.
    """
    template = pod_template(_alone(plan), labels, endpoint)
    spec, unused = template["spec"], _unused_volumes(plan)
    dropped = {"resourceClaims", "topologySpreadConstraints", "nodeSelector", "affinity", "runtimeClassName"}
    result = {field: value for field, value in spec.items() if field not in dropped | {"containers", "initContainers"}}
    result |= _place(spec, plan)
    result |= {kind: _containers(spec[kind], plan, unused) for kind in ("initContainers", "containers") if kind in spec}
    result["volumes"] = _except(spec["volumes"], unused)
    result["terminationGracePeriodSeconds"] = GRACE_SECONDS
    return {**template, "spec": result}


def _alone(plan: Plan) -> Plan:
    """The plan as if our trainer ran in one pod without accelerators; its name and its files stay."""
    return replace(
        plan,
        config=plan.config.model_copy(update={"resources": Resources()}),
        trainer=TrainerOverride(env=plan.trainer.env),
    )


def _unused_volumes(plan: Plan) -> set[str]:
    """The volumes of the run's claims, but for the cache's."""
    cache = f"{plan.config.cache_folder}/"
    volumes = claim_volumes(plan).items()
    return {volume for claim, volume in volumes if not cache.startswith(f"{names.volume_mount(claim)}/")}


def _containers(containers: list[Part], plan: Plan, unused: set[str]) -> list[Part]:
    kept = (one for one in containers if one["name"] == names.CONTAINER or not _asks_for_a_device(one))
    return [_fetcher(one, plan, unused) if one["name"] == names.CONTAINER else one for one in kept]


def _fetcher(container: Part, plan: Plan, unused: set[str]) -> Part:
    """The training container as the one that downloads."""
    kept = {field: value for field, value in container.items() if field not in NOT_FOR_A_DOWNLOAD}
    image = {"image": plan.fetcher_image} if plan.fetcher_image else {}
    resources = {kind: dict(amounts) for kind, amounts in RESOURCES.items()}
    mounts = _except(container["volumeMounts"], unused)
    return {**kept, **image, "command": list(COMMAND), "resources": resources, "volumeMounts": mounts}


def _asks_for_a_device(container: Part) -> bool:
    resources = container.get("resources") or {}
    amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return bool(resources.get("claims")) or not PLAIN_RESOURCES.issuperset(amounts)


def _place(spec: Part, plan: Plan) -> Part:
    """Where the pod may run: where a training pod may, accelerators aside."""
    selector = {
        label: value for label, value in (spec.get("nodeSelector") or {}).items() if not _of_accelerators(label)
    }
    required = _required_nodes(spec.get("affinity") or {})
    affinity = off_faulty_nodes({"nodeAffinity": {REQUIRED: required}} if required else {}, plan)
    runtime_class = spec.get("runtimeClassName")
    given = {
        "nodeSelector": selector,
        "affinity": affinity,
        "priorityClassName": plan.scheduling.priority_class_name,
        "runtimeClassName": None if str(runtime_class).startswith("nvidia") else runtime_class,
    }
    return {field: value for field, value in given.items() if value}


def _required_nodes(affinity: Part) -> Part:
    """The required node affinity without the labels of accelerators; none where another term would allow any node."""
    former = ((affinity.get("nodeAffinity") or {}).get(REQUIRED) or {}).get("nodeSelectorTerms") or []
    terms = [_without_accelerators(term) for term in former]
    return {"nodeSelectorTerms": terms} if terms and all(terms) else {}


def _without_accelerators(term: Part) -> Part:
    expressions = term.get("matchExpressions") or []
    kept = [expression for expression in expressions if not _of_accelerators(expression["key"])]
    rest = {field: value for field, value in term.items() if field != "matchExpressions"}
    return {**rest, **({"matchExpressions": kept} if kept else {})}


def _of_accelerators(label: str) -> bool:
    return label.startswith(ACCELERATOR_LABELS)


def _except(items: list[Part], left_out: set[str]) -> list[Part]:
    return [item for item in items if item["name"] not in left_out]
