"""`manifests`: the plan as Kubernetes objects. No decision is left here but where a value stands."""

from __future__ import annotations

from typing import Any

from finetune_api import names
from finetune_api.names import (
    API_VERSION,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_ROLE,
    LABEL_RUN,
    MANAGER,
    ROLE_FETCH,
    ROLE_TRAIN,
)
from finetune_api.progress import CLASS_OF_EXIT_CODE, FailureClass
from finetune_operator.core import programs
from finetune_operator.core.fetch import fetch_template
from finetune_operator.core.plan import Plan, freeze
from finetune_operator.core.pod import Endpoint, pod_template
from finetune_operator.core.scheduling import POD_GROUP_API, is_suspended_by_its_queue, needs_pod_group, scheduled

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
    """The children of one attempt, in the order in which they are created: what pods need comes before the pods.

    The Service is the run's: after the first attempt it is there already.
    """
    service = (_service(plan),) if plan.nodes > 1 else ()
    pod_group = (_pod_group(plan),) if needs_pod_group(plan) else ()
    return (_config_map(plan, endpoint), *service, *pod_group, _training_job(plan, endpoint))


def fetch_manifests(plan: Plan, endpoint: Endpoint) -> tuple[Manifest, Manifest]:
    """The attempt's ConfigMap, and the Job that downloads what the run reads before the attempt starts.

    No queue holds that Job back: it asks for nothing that queues share out.
    """
    labels = _labels_of_pods(plan, ROLE_FETCH)
    metadata = _metadata(plan, names.fetch_name(plan.name), labels)
    template = fetch_template(plan, labels, endpoint)
    return _config_map(plan, endpoint), _job(metadata, 1, template, failure_policy())


def _training_job(plan: Plan, endpoint: Endpoint) -> Manifest:
    """The attempt's Job. One failed pod fails it; podFailurePolicy adds that the Job itself tells the class.

    A Job that its queue may suspend does without: the Job controller holds the rules against the pods that end because
    of the suspension, too, and fails the Job for good (seen with Kubernetes 1.34). Else it does not count such pods.
    """
    labels = _labels_of_pods(plan, ROLE_TRAIN)
    template = pod_template(plan, labels, endpoint)
    policy = {} if is_suspended_by_its_queue(plan) else failure_policy()
    return scheduled(_job(_metadata(plan, plan.name, labels), plan.nodes, template, policy), plan)


def _labels_of_run(plan: Plan) -> dict[str, str]:
    job = plan.config.job
    return {LABEL_JOB: job.name, LABEL_RUN: str(job.run), LABEL_MANAGED_BY: MANAGER}


def _labels_of_attempt(plan: Plan) -> dict[str, str]:
    return {**_labels_of_run(plan), LABEL_ATTEMPT: str(plan.attempt)}


def _labels_of_pods(plan: Plan, role: str) -> dict[str, str]:
    return {**_labels_of_attempt(plan), LABEL_ROLE: role}


def _metadata(plan: Plan, name: str, labels: dict[str, str]) -> Manifest:
    job = plan.config.job
    owner = {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "namespace": job.namespace, "labels": dict(labels), "ownerReferences": [owner]}


def _config_map(plan: Plan, endpoint: Endpoint) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(plan, plan.name, _labels_of_attempt(plan)),
        "immutable": True,
        "data": freeze(plan) | {names.CA_FILE: endpoint.ca} | programs.files(plan, endpoint.launcher),
    }


def _service(plan: Plan) -> Manifest:
    """One for all attempts of the run: the pods' own names, which the attempt is part of, tell these apart."""
    job = plan.config.job
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(plan, plan.service, _labels_of_run(plan)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB: job.name, LABEL_RUN: str(job.run), LABEL_ROLE: ROLE_TRAIN},
            "ports": [{"name": "rendezvous", "port": names.MASTER_PORT}],
        },
    }


def _pod_group(plan: Plan) -> Manifest:
    return {
        "apiVersion": POD_GROUP_API,
        "kind": "PodGroup",
        "metadata": _metadata(plan, plan.name, _labels_of_attempt(plan)),
        "spec": {"minMember": plan.nodes},
    }


def _job(metadata: Manifest, nodes: int, template: Manifest, policy: Manifest) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            **policy,
            "template": template,
        },
    }


def failure_policy() -> Manifest:
    return {"podFailurePolicy": {"rules": pod_failure_rules()}}


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
