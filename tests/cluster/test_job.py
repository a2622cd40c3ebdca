"""The same manifest on a real cluster: one job from apply to delete, nothing between it and real pods.

The tests are named after the sentences that the project promises, and follow one undisturbed job in order.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest

from finetune_api.names import uid5
from finetune_api.status import ConditionType, Phase, Status
from support.cluster.access import Access, Claim
from support.example_jobs import QUICKSTART
from support.live import LiveJob, condition, news_only

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"


@dataclass(frozen=True)
class Life:
    """A job that has ended well, every status that a watch saw, and its volume."""

    job: LiveJob
    seen: list[Status]
    claim: Claim

    @property
    def end(self) -> Status:
        return self.seen[-1]

    @property
    def folder(self) -> str:
        """Folder of the run on the volume."""
        uid = self.job.object()["metadata"]["uid"]
        return f"models/{self.job.namespace}/{self.job.name}/{uid5(uid)}"


@pytest.fixture(scope="module")
def life(installed_operator: Access, module_namespace: str) -> Life:
    """`kubectl apply -f examples/quickstart/job.yaml`, which asks for two nodes, and what became of it."""
    claim = installed_operator.create_claim(module_namespace, "finetune")
    await_idle_node(installed_operator)
    job = LiveJob(installed_operator, module_namespace, "quickstart")
    installed_operator.kubectl("apply", f"--namespace={module_namespace}", f"--filename={QUICKSTART}")
    with job.watched() as seen:
        job.wait_for_end(600)
    assert job.status().phase == Phase.SUCCEEDED, job.describe()
    return Life(job, [*seen, job.status()], claim)


def await_idle_node(cluster: Access) -> None:
    """Pods of an earlier test may take a while to end, and hold the processors that this job asks for."""
    alive = "--field-selector=status.phase!=Succeeded,status.phase!=Failed"
    selector = "--selector=app.kubernetes.io/managed-by=finetune-operator"
    deadline = time.monotonic() + 60
    while cluster.kubectl("get", "pods", "--all-namespaces", alive, selector, "--output=name").strip():
        assert time.monotonic() < deadline, "training pods of another test are still alive"
        time.sleep(1)


def test_the_status_goes_from_pending_over_running_to_succeeded(life: Life) -> None:
    phases = [status.phase for status in life.seen if status.phase is not None]
    changes = [phases[0], *(new for old, new in pairwise(phases) if new != old)]
    assert changes == [Phase.PENDING, Phase.RUNNING, Phase.SUCCEEDED]


def test_running_shows_progress(life: Life) -> None:
    running = [status.progress for status in life.seen if status.phase == Phase.RUNNING and status.progress]
    steps = [progress.step for progress in running if progress.step is not None]
    assert len(set(steps)) >= 2
    assert steps == sorted(steps)
    last = running[-1]
    assert None not in (last.percentage, last.total_steps, last.loss, last.eta_seconds, last.epoch)


def test_succeeded_has_the_test_metrics_in_it(life: Life) -> None:
    metrics = life.end.metrics
    assert metrics["test_accuracy"] >= 0.85
    assert metrics["test_accuracy"] > metrics["test_baseline_accuracy"] + 0.5


def test_succeeded_is_complete_and_ready(life: Life) -> None:
    types = (ConditionType.COMPLETE, ConditionType.READY, ConditionType.STALLED, ConditionType.RECONCILING)
    assert [condition(life.end, type_) for type_ in types] == ["True", "True", None, None]
    assert (life.end.attempt, life.end.restarts and life.end.restarts.total) == (1, 0)


def test_it_ran_as_one_indexed_job_of_two_pods(life: Life) -> None:
    (child,) = life.job.cluster.list("jobs", life.job.namespace, life.job.selector)
    spec = child["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    pods = life.job.pods()
    indexes = sorted(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in pods)
    assert indexes == ["0", "1"]
    assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}


def test_the_pods_ran_as_nobody_on_a_read_only_root(life: Life) -> None:
    for pod in life.job.pods():
        (container,) = pod["spec"]["containers"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_both_pods_trained_together(life: Life) -> None:
    """The run's record says that two processes shared the work."""
    record = json.loads(life.claim.read(f"{life.folder}/run.json"))
    assert record["choices"]["processes"] == 2


def test_the_model_lies_on_the_volume(life: Life) -> None:
    files = set(life.claim.files())
    wanted = {
        "model/model.safetensors",
        "model/config.json",
        "evaluation.json",
        "metrics.jsonl",
        "status.json",
        "README.md",
    }
    assert {f"{life.folder}/{name}" for name in wanted} <= files
    assert life.end.output is not None
    assert life.end.output.uri == f"pvc://finetune/{life.folder}"


def test_kubectl_get_ftj_shows_phase_progress_loss_and_age(life: Life) -> None:
    header, row = life.job.cluster.kubectl("get", "ftj", "--namespace", life.job.namespace).splitlines()
    shown = dict(zip(header.split(), row.split(), strict=True))
    assert list(shown) == ["NAME", "PHASE", "NODES", "PROGRESS", "LOSS", "ETA", "RESTARTS", "REASON", "AGE"]
    assert (shown["PHASE"], shown["PROGRESS"], shown["RESTARTS"]) == ("Succeeded", "100", "0")
    assert float(shown["LOSS"]) > 0


def test_an_undisturbed_job_costs_six_writes_events_included(life: Life) -> None:
    """Service, ConfigMap, Job and three statuses; what only brings news of progress is not counted."""
    begin = life.job.object()["metadata"]["creationTimestamp"].removesuffix("Z")
    writes = [
        event
        for event in life.job.cluster.audit_events()
        if event.user == OPERATOR and event.writes and event.namespace == life.job.namespace and event.time >= begin
    ]
    created = sorted(event.resource for event in writes if event.verb == "create")
    statuses = [event for event in writes if event.verb != "create"]
    progress = sum(news_only(old, new) for old, new in pairwise([Status(), *life.seen[:-1]]) if old != new)
    assert created == ["configmaps", "jobs", "services"]
    assert {event.resource for event in statuses} == {"finetunejobs/status"}
    assert len(statuses) - progress <= 3


def test_no_event_tells_what_every_job_does(life: Life) -> None:
    events = life.job.cluster.list("events", life.job.namespace)
    assert [event["reason"] for event in events if event["involvedObject"]["kind"] == "FineTuneJob"] == []


def test_applying_the_same_manifest_again_starts_nothing(life: Life) -> None:
    before = life.job.object()
    life.job.cluster.kubectl("apply", f"--namespace={life.job.namespace}", f"--filename={QUICKSTART}")
    assert life.job.object()["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_deleting_the_job_removes_every_object_it_made_and_files_stay(life: Life) -> None:
    """The last of this module: it takes the job away."""
    files = life.claim.files()
    assert len(life.job.children()) >= 5
    life.job.delete()
    wait_until_gone(life.job)
    assert life.claim.files() == files


def wait_until_gone(job: LiveJob) -> None:
    """Garbage collection follows the deletion within seconds."""
    deadline = time.monotonic() + 60
    while (left := job.children()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
