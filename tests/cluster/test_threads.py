"""A pod may use less than its node has: the trainer computes with as many threads as its quota allows."""

from __future__ import annotations

import json
import os

import pytest

from finetune_api.names import uid5
from finetune_api.status import Phase
from support.cluster.access import Access
from support.example_jobs import quickstart
from support.live import LiveJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_pod_with_one_processor_computes_with_one_thread(installed_operator: Access, namespace: str) -> None:
    """On a node that has more. Threads that the kernel throttles would wait for each other."""
    assert (os.cpu_count() or 1) > 1
    claim = installed_operator.create_claim(namespace, "finetune")
    job = LiveJob(installed_operator, namespace, "one-processor")
    installed_operator.apply(
        quickstart(job.name, training={"maxSteps": 2}, resources={"nodes": 1, "cpu": "1", "memory": "3Gi"})
        | {"metadata": {"name": job.name, "namespace": namespace}}
    )
    assert job.wait_for_end(300).phase == Phase.SUCCEEDED, job.describe()
    folder = f"models/{namespace}/{job.name}/{uid5(job.object()['metadata']['uid'])}"
    assert json.loads(claim.read(f"{folder}/run.json"))["choices"]["threads"] == 1
