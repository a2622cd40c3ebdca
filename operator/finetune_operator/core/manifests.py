"""`manifests`: the plan as Kubernetes objects. No decision is left here but where a value stands."""

from __future__ import annotations

from typing import Any

from finetune_api import names
from finetune_api.names import API_VERSION, LABEL_ATTEMPT, LABEL_JOB, LABEL_MANAGED_BY, LABEL_RUN, MANAGER
from finetune_api.progress import CLASS_OF_EXIT_CODE, FailureClass
from finetune_operator.core.plan import Plan, freeze
from finetune_operator.core.pod import Endpoint, pod_template

Manifest = dict[str, Any]


def _with_codes(*classes: FailureClass) -> tuple[tuple[FailureClass, tuple[int, ...]], ...]:
    codes = CLASS_OF_EXIT_CODE.items()
    return tuple((wanted, tuple(sorted(int(code) for code, class_ in codes if class_ is wanted))) for wanted in classes)


EXIT_CODES = _with_codes(
    FailureClass.DATA_ERROR,
    FailureClass.UNAVAILABLE,
    FailureClass.OUT_OF_MEMORY_GPU,
    FailureClass.PREEMPTED,
    FailureClass.EVALUATION_GATE_FAILED,
    FailureClass.CONFIG_ERROR,
    FailureClass.OUT_OF_MEMORY_HOST,
)
LATER_EXIT_CODES = _with_codes(FailureClass.STORAGE_FULL, FailureClass.AUTH_ERROR)
RULE_CLASSES: tuple[FailureClass, ...] = (
    FailureClass.EVICTED,
    *(class_ for class_, _ in EXIT_CODES),
    FailureClass.CODE_ERROR,
    *(class_ for class_, _ in LATER_EXIT_CODES),
)
"""The class that each rule of podFailurePolicy stands for, by index.

The order is a contract with Jobs that run already: a class is added at the end only.
"""


def manifests(plan: Plan, endpoint: Endpoint) -> tuple[Manifest, ...]:
    """The children of one attempt, in the order in which they are created: what pods need comes before the pods."""
    service = (_service(plan),) if plan.nodes > 1 else ()
    return (_config_map(plan, endpoint), *service, _job(plan, endpoint))


def labels(plan: Plan) -> dict[str, str]:
    job = plan.config.job
    return {
        LABEL_JOB: job.name,
        LABEL_RUN: str(job.run),
        LABEL_ATTEMPT: str(job.attempt),
        LABEL_MANAGED_BY: MANAGER,
    }


def _metadata(plan: Plan) -> Manifest:
    job = plan.config.job
    owner = {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": plan.name,
        "namespace": job.namespace,
        "labels": labels(plan),
        "ownerReferences": [owner],
    }


def _config_map(plan: Plan, endpoint: Endpoint) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(plan),
        "immutable": True,
        "data": freeze(plan) | {names.CA_FILE: endpoint.ca},
    }


def _service(plan: Plan) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(plan),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels(plan),
            "ports": [{"name": "rendezvous", "port": names.MASTER_PORT}],
        },
    }


def _job(plan: Plan, endpoint: Endpoint) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(plan),
        "spec": {
            "completionMode": "Indexed",
            "completions": plan.nodes,
            "parallelism": plan.nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": pod_failure_rules()},
            "template": pod_template(plan, labels(plan), endpoint),
        },
    }


def pod_failure_rules() -> list[Manifest]:
    """One FailJob rule a class, so that the Job's condition tells the class even when the pod is gone."""
    disrupted = {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    known = [_exit_codes("In", codes) for _, codes in EXIT_CODES]
    later = [_exit_codes("In", codes) for _, codes in LATER_EXIT_CODES]
    others = _exit_codes("NotIn", tuple(code for _, codes in EXIT_CODES + LATER_EXIT_CODES for code in codes))
    return [{"action": "FailJob", **condition} for condition in (disrupted, *known, others, *later)]


def _exit_codes(operator: str, codes: tuple[int, ...]) -> Manifest:
    values = sorted({0, *codes} - ({0} if operator == "In" else set()))
    return {"onExitCodes": {"containerName": names.CONTAINER, "operator": operator, "values": values}}
