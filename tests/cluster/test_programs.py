"""Bring your own program, on a real cluster: a plain torchrun program, and two TensorFlow workers.

The torch program is the example of examples/own-program. TensorFlow comes from a folder on a volume, on the path of the
trainer image's Python.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.names import uid5
from finetune_api.progress import FailureClass
from finetune_api.status import Phase, Status
from support.cluster.access import Access, Claim
from support.live import LiveJob
from support.own_programs import EXAMPLE, example
from support.tensorflow_packages import PROGRAM, tensorflow_packages

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture
def claim(installed_operator: Access, namespace: str) -> Claim:
    return installed_operator.create_claim(namespace, "finetune")


def start(cluster: Access, namespace: str, manifest: dict[str, Any], script: str) -> LiveJob:
    """The manifest and the ConfigMap with its script."""
    metadata = {"name": "own-program", "namespace": namespace}
    manifest["metadata"]["namespace"] = namespace
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"train.py": script}}, manifest
    )
    return LiveJob(cluster, namespace, manifest["metadata"]["name"])


def folder(job: LiveJob) -> str:
    """Folder of the run on the volume."""
    return f"models/{job.namespace}/{job.name}/{uid5(job.object()['metadata']['uid'])}"


def step_of(status: Status) -> int:
    return (status.progress.step if status.progress else None) or 0


def restarts(status: Status) -> tuple[int, int]:
    assert status.restarts is not None
    return status.restarts.program, status.restarts.infra


def rank_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def test_the_example_is_applied_by_one_command_and_ends_in_succeeded(
    installed_operator: Access, namespace: str, claim: Claim
) -> None:
    installed_operator.kubectl("apply", f"--namespace={namespace}", f"--kustomize={EXAMPLE}")
    job = LiveJob(installed_operator, namespace, "own-program")
    status = job.wait_for_end(400)
    assert status.phase == Phase.SUCCEEDED, job.describe()
    assert (status.attempt, restarts(status)) == (1, (0, 0))
    assert status.progress is not None
    assert (status.progress.step, status.progress.total_steps, status.progress.percentage) == (200, 200, 100)
    assert float(status.progress.loss or "nan") < 1.5
    assert status.metrics["test_accuracy"] > 0.5
    assert {f"{folder(job)}/model.pt", f"{folder(job)}/checkpoints/newest.pt"} <= set(claim.files())
    assert sorted(rank_of(pod) for pod in job.pods()) == ["0", "1"]


FAULT = """
    if rank == 1:
        raise ValueError("row 17 has no label")
"""


@pytest.mark.usefixtures("claim")
def test_a_fault_of_one_rank_is_told_with_rank_pod_message_and_traceback(
    installed_operator: Access, namespace: str
) -> None:
    """The other pod only lost its peer, and is not taken for the cause."""
    place = "    vectors = load_file("
    script = (EXAMPLE / "train.py").read_text()
    assert place in script
    manifest = example("broken", runPolicy={"backoffLimit": 0})
    job = start(installed_operator, namespace, manifest, script.replace(place, f"{FAULT}{place}"))
    status = job.wait_for_end(400)
    assert status.phase == Phase.FAILED, job.describe()
    failure = status.failure
    assert failure is not None
    assert (failure.class_, failure.reason, failure.rank) == (FailureClass.CODE_ERROR, "ValueError", 1), job.describe()
    assert (failure.message, failure.exit_code) == ("rank 1: ValueError: row 17 has no label", 1)
    (pod,) = (pod for pod in job.pods() if rank_of(pod) == "1")
    assert (failure.pod, failure.node) == (pod["metadata"]["name"], pod["spec"]["nodeName"])
    assert "Traceback (most recent call last):" in (failure.log_tail or "")
    assert (failure.log_tail or "").endswith("ValueError: row 17 has no label")
    assert failure.hint


def test_deleting_a_pod_ends_in_succeeded_resumed_from_the_programs_own_checkpoint(
    installed_operator: Access, namespace: str, claim: Claim
) -> None:
    """The deleted pod's processes agree with the others to save; it costs none of the program's budget."""
    manifest = example("resumed", training={"maxSteps": 3000}, runPolicy={"backoffLimit": 0})
    job = start(installed_operator, namespace, manifest, (EXAMPLE / "train.py").read_text())
    job.wait(lambda status: step_of(status) > 0, 240, "the first report")
    (victim,) = (pod["metadata"]["name"] for pod in job.pods() if rank_of(pod) == "1")
    job.cluster.kubectl("delete", "pod", victim, f"--namespace={namespace}", "--wait=false")
    status = job.wait_for_end(600)
    assert status.phase == Phase.SUCCEEDED, job.describe()
    assert (status.attempt, restarts(status)) == (2, (0, 1)), job.describe()
    assert status.checkpoint is not None
    assert 0 < (status.checkpoint.resumed_from_step or 0) < step_of(status) == 3000
    assert [record.result for record in status.history] == ["Failed", "Succeeded"]
    assert f"{folder(job)}/model.pt" in set(claim.files())


def test_two_tensorflow_workers_find_each_other_and_train_together(
    installed_operator: Access, namespace: str, claim: Claim
) -> None:
    claim.put(tensorflow_packages(), "tensorflow")
    trainer = {
        "framework": "tensorflow",
        "command": ["python3", "/program/train.py"],
        "env": [{"name": "PYTHONPATH", "value": "/volumes/finetune/tensorflow"}],
    }
    manifest = example("tensorflow", trainer=trainer, training={"maxSteps": 60})
    job = start(installed_operator, namespace, manifest, PROGRAM.read_text())
    status = job.wait_for_end(900)
    assert status.phase == Phase.SUCCEEDED, job.describe()
    assert (step_of(status), status.attempt) == (60, 1)
    result = json.loads(claim.read(f"{folder(job)}/result.json"))
    assert result["workers"] == 2
    assert result["slope"] == pytest.approx(3, abs=0.01)
