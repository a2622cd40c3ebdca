"""A real API server takes every child that the operator can make, and its pods pass the strictest pod security."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.core.manifests import fetch_manifests, manifests
from finetune_operator.core.plan import Plan, Runtime, Runtimes
from support.builders import ENDPOINT, a_job
from support.cluster import Access
from support.cluster.process import CommandFailed
from support.cluster.waiting import wait_for

pytestmark = pytest.mark.cluster

RACK = "cloud.provider.com/topology-rack"
B200 = {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-B200"]}]}
REQUIRED = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [B200]}}
VOLUMES = [
    {"name": "datasets", "mountPath": "/datasets", "claimName": "datasets", "readOnly": True},
    {"name": "certificates", "mountPath": "/etc/certificates", "configMapName": "certificates"},
    {"name": "netrc", "mountPath": "/etc/netrc", "secretName": "netrc"},
]


def plan_of(namespace: str, scheduling: dict[str, Any], pod: dict[str, Any]) -> Plan:
    job = a_job(namespace=namespace).with_spec(
        cache={"uri": "pvc://cache/downloads"},
        resources={"nodes": 2, "gpusPerNode": 8, "sharedMemory": "1Gi"},
        scheduling=scheduling,
        podTemplate={"spec": pod},
    )
    runtime = Runtime("finetune", "default", {"image": "trainer:1", "volumes": VOLUMES})
    return replace(job.plan(Runtimes(default=runtime)), excluded=("node-1",), avoided=("node-2",))


@pytest.mark.parametrize(
    ("scheduling", "pod"),
    [
        pytest.param({}, {}, id="default scheduler"),
        pytest.param({"topology": {"required": RACK}}, {"affinity": {"nodeAffinity": REQUIRED}}, id="one rack"),
        pytest.param({"queueName": "training", "topology": {"preferred": RACK}}, {}, id="Kueue"),
        pytest.param({"queueName": "gold", "gang": "Volcano", "topology": {"preferred": RACK}}, {}, id="Volcano"),
        pytest.param({"gang": "Coscheduling"}, {"nodeSelector": {"nvidia.com/gpu.product": "B200"}}, id="coscheduling"),
    ],
)
def test_the_api_server_takes_every_child_and_pod(
    cluster: Access, module_namespace: str, scheduling: dict[str, Any], pod: dict[str, Any]
) -> None:
    """But for PodGroups, whose kind is not installed here."""
    plan = plan_of(module_namespace, scheduling, pod)
    children = [*manifests(plan, ENDPOINT), fetch_manifests(plan, ENDPOINT)[1]]
    known = [child for child in children if child["kind"] != "PodGroup"]
    pods = [pod_of(child) for child in known if child["kind"] == "Job"]
    text = "\n---\n".join(json.dumps(made) for made in (*known, *pods))
    answer = cluster.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=text)
    assert answer.count("created (server dry run)") == len(known) + 2


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """The Pod that the Job controller would make; a Job is taken even where its pods would not be."""
    metadata, template = job["metadata"], job["spec"]["template"]
    named = {"name": metadata["name"], "namespace": metadata["namespace"], **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": template["spec"]}


SAVES_WHEN_TOLD_TO_STOP = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1 + int(os.environ["JOB_COMPLETION_INDEX"])), os._exit(75)))
signal.signal(signal.SIGUSR1, lambda *_: os._exit(1))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_job_of_a_queue_outlives_its_suspension_and_not_a_fault(cluster: Access, module_namespace: str) -> None:
    """The test is the queue: it suspends and resumes, as Kueue does."""
    children = {child["kind"]: child for child in manifests(queued_program(cluster, module_namespace), ENDPOINT)}
    for child in children.values():
        # The owner is not there, and what has lost its owner is collected.
        del child["metadata"]["ownerReferences"]
    cluster.apply(*children.values())
    name = children["Job"]["metadata"]["name"]

    def suspend(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        cluster.kubectl("patch", "job", name, f"--namespace={module_namespace}", f"--patch={patch}")

    def ready_pods() -> int:
        status = (cluster.get("job", name, module_namespace) or {}).get("status", {})
        return int(status.get("ready", 0))

    def ends() -> set[str]:
        status = (cluster.get("job", name, module_namespace) or {}).get("status", {})
        return {item["type"] for item in status.get("conditions", []) if item["status"] == "True"}

    assert ready_pods() == 0
    for _ in range(2):
        suspend(False)
        wait_for(cluster, module_namespace, lambda: ready_pods() == 2, 60, "both pods")
        suspend(True)
        wait_for(cluster, module_namespace, lambda: not cluster.list("pods", module_namespace), 60, "the pods' end")
        assert ends() == {"Suspended"}

    suspend(False)
    wait_for(cluster, module_namespace, lambda: ready_pods() == 2, 60, "both pods")
    pod = cluster.list("pods", module_namespace, "batch.kubernetes.io/job-completion-index=1")[0]["metadata"]["name"]
    fault = "import os, signal; os.kill(1, signal.SIGUSR1)"
    # The container may end before the answer comes.
    with suppress(CommandFailed):
        cluster.kubectl("exec", pod, f"--namespace={module_namespace}", "--", "python", "-c", fault)
    wait_for(cluster, module_namespace, lambda: "Failed" in ends(), 60, "the Job's failure")


def queued_program(cluster: Access, namespace: str) -> Plan:
    """Two pods of a program that takes a moment to save; no pod needs a volume."""
    trainer = {
        "image": cluster.images().operator,
        "framework": "custom",
        "command": ["python", "-c", SAVES_WHEN_TOLD_TO_STOP],
    }
    job = a_job(namespace=namespace).with_spec(
        dataset={"train": [{"uri": "hf://org/data"}]},
        output={"uri": None},
        resources={"nodes": 2},
        scheduling={"queueName": "training"},
        trainer=trainer,
    )
    return job.plan()
