"""What a pod has is what the trainer computes with: the threads of its quota, and the compiler of its image."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from finetune_api.names import uid5
from finetune_api.status import Phase
from support.cluster.access import Access
from support.example_jobs import quickstart
from support.live import LiveJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def choices(installed_operator: Access, module_namespace: str) -> Any:
    """What the trainer chose in a pod with one processor, on a node that has more, and layers to compile."""
    assert (os.cpu_count() or 1) > 1
    claim = installed_operator.create_claim(module_namespace, "finetune")
    job = LiveJob(installed_operator, module_namespace, "one-processor")
    training = {"maxSteps": 2, "compile": "Always"}
    manifest = quickstart(job.name, training=training, resources={"nodes": 1, "cpu": "1", "memory": "3Gi"})
    installed_operator.apply(manifest | {"metadata": {"name": job.name, "namespace": module_namespace}})
    assert job.wait_for_end(600).phase == Phase.SUCCEEDED, job.describe()
    folder = f"models/{module_namespace}/{job.name}/{uid5(job.object()['metadata']['uid'])}"
    return json.loads(claim.read(f"{folder}/run.json"))["choices"]


def test_a_pod_with_one_processor_computes_with_one_thread(choices: Any) -> None:
    """Threads that the kernel throttles would wait for each other."""
    assert choices["threads"] == 1


def test_layers_are_compiled_in_a_pod_of_our_image(choices: Any) -> None:
    """As nobody, on a root that is read-only."""
    assert choices["compiled"] is True
