"""What goes wrong on a real cluster, and what a person reads of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from finetune_api.progress import FailureClass
from finetune_api.status import ConditionType, Phase, Status
from support.cluster.access import Access
from support.example_jobs import quickstart
from support.live import LiveJob, condition

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SECONDS_FOR_THE_OPERATOR = 5
SECONDS_FOR_THE_TRAINER = 60


def start(cluster: Access, namespace: str, manifest: dict[str, Any]) -> LiveJob:
    manifest["metadata"]["namespace"] = namespace
    cluster.apply(manifest)
    return LiveJob(cluster, namespace, manifest["metadata"]["name"])


def step_of(status: Status) -> int:
    return (status.progress.step if status.progress else None) or 0


@pytest.fixture
def namespace_with_volume(installed_operator: Access, namespace: str) -> str:
    installed_operator.create_claim(namespace, "finetune")
    return namespace


@pytest.mark.parametrize("rank", [0, 1])
def test_deleting_a_training_pod_ends_in_succeeded_resumed_from_the_last_checkpoint(
    installed_operator: Access, namespace_with_volume: str, rank: int
) -> None:
    manifest = quickstart("deleted-pod", training={"maxSteps": 60}, checkpoint={"everySteps": 5})
    job = start(installed_operator, namespace_with_volume, manifest)
    job.wait(lambda status: step_of(status) >= 5, 240, "step 5")
    victim = next(pod for pod in job.pods() if pod["metadata"]["name"].rpartition("-")[0].endswith(f"-{rank}"))
    job.cluster.kubectl("delete", "pod", victim["metadata"]["name"], f"--namespace={job.namespace}", "--wait=false")
    status = job.wait_for_end(400)
    assert status.phase == Phase.SUCCEEDED, job.describe()
    assert status.checkpoint is not None
    assert (status.checkpoint.resumed_from_step or 0) >= 5
    assert (status.attempt, status.restarts and status.restarts.infra, status.restarts and status.restarts.program) == (
        2,
        1,
        0,
    )
    assert [record.result for record in status.history] == ["Failed", "Succeeded"]


def test_an_unknown_runtime_is_told_within_five_seconds_and_starts_the_job_when_it_is_applied(
    installed_operator: Access, namespace_with_volume: str
) -> None:
    manifest = quickstart("late-runtime", runtimeRef={"name": "late"}, training={"maxSteps": 3})
    job = start(installed_operator, namespace_with_volume, manifest)
    waiting = job.wait(lambda status: status.failure is not None, SECONDS_FOR_THE_OPERATOR, "the reason")
    assert waiting.failure is not None
    assert (waiting.phase, waiting.failure.class_, waiting.failure.reason) == (
        Phase.PENDING,
        FailureClass.CONFIG_ERROR,
        "RuntimeNotFound",
    )
    assert "late" in waiting.failure.message
    assert waiting.failure.hint
    assert condition(waiting, ConditionType.STALLED) == "True"
    time.sleep(60)
    assert job.status() == waiting
    runtime = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneRuntime"}
    image = installed_operator.images().trainer
    metadata = {"name": "late", "namespace": job.namespace}
    installed_operator.apply({**runtime, "metadata": metadata, "spec": {"image": image}})
    started = job.wait(lambda status: status.failure is None and bool(status.attempt), 10, "the start")
    assert started.attempt == 1
    assert job.wait_for_end(300).phase == Phase.SUCCEEDED, job.describe()


@pytest.mark.parametrize(
    ("changes", "class_", "said"),
    [
        pytest.param(
            {"model": {"uri": "pkg://no_such_package/model"}},
            FailureClass.CONFIG_ERROR,
            "no_such_package",
            id="unknown model",
        ),
        pytest.param(
            {"dataset": {"columns": {"text": "label", "label": "text"}}},
            FailureClass.DATA_ERROR,
            "spec.dataset.test.fraction",
            id="rows that cannot be split",
        ),
        pytest.param(
            {"dataset": {"columns": {"text": "txt", "label": "label"}}},
            FailureClass.CONFIG_ERROR,
            "spec.dataset.columns.text",
            id="a column that is not there",
        ),
    ],
)
def test_what_only_the_trainer_can_see_is_told_within_a_minute_of_the_containers_start(
    installed_operator: Access,
    namespace_with_volume: str,
    changes: dict[str, Any],
    class_: FailureClass,
    said: str,
) -> None:
    job = start(installed_operator, namespace_with_volume, quickstart("cannot-work", **changes))
    job.wait(lambda _: any(container_started(pod) for pod in job.pods()), 120, "the container's start")
    status = job.wait(lambda status: status.failure is not None, SECONDS_FOR_THE_TRAINER, "the reason")
    assert status.failure is not None
    assert (status.phase, status.failure.class_) == (Phase.FAILED, class_), job.describe()
    assert said in status.failure.message
    assert status.failure.hint
    time.sleep(20)
    assert job.status() == status, "it was tried again"
    assert len(installed_operator.list("jobs", job.namespace)) == 1


def container_started(pod: dict[str, Any]) -> bool:
    states = pod["status"].get("containerStatuses", [])
    return any("running" in state["state"] or "terminated" in state["state"] for state in states)


def test_a_gate_that_fails_ends_the_job_for_good_and_keeps_its_model(
    installed_operator: Access, namespace: str
) -> None:
    claim = installed_operator.create_claim(namespace, "finetune")
    gate = [{"metric": "test_accuracy", "min": 1.5}]
    job = start(installed_operator, namespace, quickstart("gated", training={"maxSteps": 3}, evaluation={"gate": gate}))
    status = job.wait_for_end(400)
    assert (status.phase, status.failure and status.failure.reason) == (Phase.FAILED, "EvaluationGateFailed")
    assert status.failure is not None
    assert (status.failure.class_, status.failure.exit_code) == (FailureClass.EVALUATION_GATE_FAILED, 76)
    assert f"test_accuracy is {status.metrics['test_accuracy']:.6g} (min 1.5)" in status.failure.message
    assert (status.attempt, status.restarts and status.restarts.total) == (1, 0)
    assert status.output is not None
    assert (status.output.digest or "").startswith("sha256:")
    folder = (status.output.uri or "").removeprefix("pvc://finetune/")
    assert f"{folder}/model/model.safetensors" in set(claim.files())
    time.sleep(20)
    assert job.status() == status, "it was tried again"


def test_a_child_that_the_api_server_refuses_is_told_within_five_seconds(
    installed_operator: Access, namespace_with_volume: str
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-jobs", "namespace": namespace_with_volume},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    installed_operator.apply(quota)
    job = start(installed_operator, namespace_with_volume, quickstart("over-quota"))
    status = job.wait(lambda status: status.failure is not None, SECONDS_FOR_THE_OPERATOR, "the reason")
    assert status.failure is not None
    assert "exceeded quota: no-jobs" in status.failure.message
    assert condition(status, ConditionType.STALLED) == "True"


def test_a_value_out_of_range_is_refused_by_the_api_server(installed_operator: Access, namespace: str) -> None:
    from support.cluster.process import CommandFailed

    with pytest.raises(CommandFailed, match=r"spec\.training\.learningRate.*less than or equal to 1"):
        start(installed_operator, namespace, quickstart("too-fast", training={"learningRate": 5}))
