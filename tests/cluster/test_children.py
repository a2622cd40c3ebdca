"""A real API server takes every child that the operator can make, and its pods pass the strictest pod security."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.core.manifests import fetch_manifests, manifests
from finetune_operator.core.plan import Plan, Runtime, Runtimes
from support.builders import ENDPOINT, a_job
from support.cluster import Access

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
