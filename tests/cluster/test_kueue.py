"""Jobs that wait for a quota: Kueue's real manager admits, queues and preempts them."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from finetune_api.status import ConditionType, Phase, Status
from support.cluster import Access
from support.cluster.access import OPERATOR_NAMESPACE, Object
from support.cluster.kueue import LABEL
from support.cluster.kueue import NAMESPACE as KUEUE_NAMESPACE
from support.cluster.process import CommandFailed
from support.cluster.waiting import wait_for
from support.example_jobs import quickstart
from support.live import KIND, LiveJob
from support.small_programs import program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

QUEUE = "training"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
URGENT = "finetune-test-urgent"
OPERATOR = f"system:serviceaccount:{OPERATOR_NAMESPACE}:finetune-operator"
PREEMPTED = 75
# Long enough for every controller to have had its turn.
QUIET_SECONDS = 15


# The queue and its quota


def flavor(name: str) -> Object:
    return {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ResourceFlavor", "metadata": {"name": name}}


def cluster_queue(name: str, cpu: str) -> Object:
    """So many processors for the namespace of the same name; the urgent may take them from the others."""
    quotas = [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": "64Gi"}]
    resources = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": name, "resources": quotas}]}
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        "resourceGroups": [resources],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    return {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}


def local_queue(namespace: str) -> Object:
    kind = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "LocalQueue"}
    return {**kind, "metadata": {"name": QUEUE, "namespace": namespace}, "spec": {"clusterQueue": namespace}}


def priority_class() -> Object:
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    return {**kind, "metadata": {"name": URGENT}, "value": 1000, "preemptionPolicy": "Never"}


def workload_priority_class() -> Object:
    kind = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "WorkloadPriorityClass"}
    return {**kind, "metadata": {"name": URGENT}, "value": 1000}


@pytest.fixture
def queue(kueue: Access, namespace: str) -> Iterator[str]:
    """A namespace with a queue over a quota of two processors."""
    labels = [f"{name}={value}" for name, value in LABEL.items()]
    kueue.kubectl("label", "namespace", namespace, *labels)
    objects = (flavor(namespace), cluster_queue(namespace, "2"), local_queue(namespace))
    kueue.apply(*objects, priority_class(), workload_priority_class())
    wait_for(kueue, namespace, lambda: queue_is_active(kueue, namespace), 30, "the queue")
    yield namespace
    # What is in use goes when the test's namespace does.
    kueue.kubectl("delete", "clusterqueue,resourceflavor", namespace, "--wait=false")
    kueue.kubectl("delete", f"priorityclass/{URGENT}", f"workloadpriorityclass/{URGENT}", "--wait=false")


def queue_is_active(cluster: Access, namespace: str) -> bool:
    found = cluster.get("localqueue", QUEUE, namespace) or {}
    return condition_of(found, "Active").get("status") == "True"


def condition_of(found: Object, type_: str) -> dict[str, str]:
    conditions = found.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == type_), {})


def workload(cluster: Access, namespace: str, job: str) -> Object | None:
    """Kueue's record of a Job."""
    items = cluster.list("workloads", namespace)
    return next((item for item in items if item["metadata"]["ownerReferences"][0]["name"] == job), None)


# Plain Jobs


def plain_job(
    namespace: str, name: str, *, seconds: int, cpu: str, queued: bool = True, urgent: bool = False
) -> Object:
    """A Job of one pod that sleeps, and ends at once when it is told to."""
    labels = ({QUEUE_LABEL: QUEUE} if queued else {}) | ({"kueue.x-k8s.io/priority-class": URGENT} if urgent else {})
    container = {
        "name": "sleeper",
        "image": "",
        "command": ["sh", "-c", f"trap 'exit 1' TERM; sleep {seconds} & wait"],
        "resources": {"requests": {"cpu": cpu, "memory": "16Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


def submit(cluster: Access, job: Object) -> None:
    job["spec"]["template"]["spec"]["containers"][0]["image"] = cluster.images().operator
    cluster.apply(job)


def state(cluster: Access, namespace: str, name: str) -> str:
    """Suspended, Active (a pod of it is alive), Complete, Failed, or Idle."""
    job = cluster.get("job", name, namespace) or {}
    for end in ("Complete", "Failed"):
        if condition_of(job, end).get("status") == "True":
            return end
    if job.get("spec", {}).get("suspend"):
        return "Suspended"
    return "Active" if job.get("status", {}).get("active") else "Idle"


def test_a_quota_admits_one_job_and_holds_the_next_back_until_the_first_has_ended(kueue: Access, queue: str) -> None:
    submit(kueue, plain_job(queue, "first", seconds=12, cpu="1500m"))
    wait_for(kueue, queue, lambda: state(kueue, queue, "first") == "Active", 30, "the first Job's pod")
    submit(kueue, plain_job(queue, "second", seconds=1, cpu="1500m"))

    record = wait_for(kueue, queue, lambda: workload(kueue, queue, "second"), 10, "the second Job's Workload")
    reserved = condition_of(record, "QuotaReserved") or wait_for(
        kueue, queue, lambda: condition_of(workload(kueue, queue, "second") or {}, "QuotaReserved"), 10, "its condition"
    )
    assert (reserved["status"], reserved["reason"]) == ("False", "Pending")
    assert "insufficient unused quota for cpu" in reserved["message"]
    assert state(kueue, queue, "second") == "Suspended"

    wait_for(kueue, queue, lambda: state(kueue, queue, "second") == "Complete", 60, "the second Job's end")
    assert state(kueue, queue, "first") == "Complete"


def test_a_job_of_higher_priority_takes_the_quota_of_one_that_runs(kueue: Access, queue: str) -> None:
    submit(kueue, plain_job(queue, "patient", seconds=600, cpu="1500m"))
    wait_for(kueue, queue, lambda: state(kueue, queue, "patient") == "Active", 30, "the patient Job's pod")
    submit(kueue, plain_job(queue, "urgent", seconds=1, cpu="1500m", urgent=True))

    wait_for(kueue, queue, lambda: state(kueue, queue, "patient") == "Suspended", 30, "the preemption")
    evicted = condition_of(workload(kueue, queue, "patient") or {}, "Evicted")
    assert (evicted["status"], evicted["reason"]) == ("True", "Preempted")
    wait_for(kueue, queue, lambda: state(kueue, queue, "urgent") == "Complete", 60, "the urgent Job's end")
    wait_for(kueue, queue, lambda: state(kueue, queue, "patient") == "Active", 30, "the patient Job's return")


def test_kueue_leaves_a_job_without_a_queue_alone(kueue: Access, queue: str) -> None:
    submit(kueue, plain_job(queue, "free", seconds=1, cpu="100m", queued=False))
    wait_for(kueue, queue, lambda: state(kueue, queue, "free") == "Complete", 30, "the Job's end")
    assert workload(kueue, queue, "free") is None


def test_without_its_manager_only_namespaces_that_queue_cannot_make_jobs(kueue: Access, queue: str) -> None:
    """An interrupted test must not leave a cluster in which nothing can be started."""
    manager = ("deployment/kueue-controller-manager", f"--namespace={KUEUE_NAMESPACE}")
    kueue.kubectl("scale", *manager, "--replicas=0")
    kueue.kubectl("wait", "pods", "--all", "--for=delete", manager[1], "--timeout=60s")
    try:
        dry_run = ("create", "job", "test", "--image=none", "--dry-run=server")
        kueue.kubectl(*dry_run, "--namespace=default")
        with pytest.raises(CommandFailed, match="failed calling webhook"):
            kueue.kubectl(*dry_run, f"--namespace={queue}")
    finally:
        kueue.kubectl("scale", *manager, "--replicas=1")
        kueue.kubectl("rollout", "status", *manager, "--timeout=60s")


# FineTuneJobs


def start(cluster: Access, namespace: str, manifest: dict[str, Any]) -> LiveJob:
    manifest["metadata"]["namespace"] = namespace
    cluster.apply(manifest)
    return LiveJob(cluster, namespace, manifest["metadata"]["name"])


def queued_job(name: str, steps: int, *, nodes: int = 1, urgent: bool = False) -> dict[str, Any]:
    """Saves only when it is told to stop, so that a resume tells of that save."""
    scheduling = {"queueName": QUEUE} | ({"priorityClassName": URGENT} if urgent else {})
    return quickstart(
        name,
        training={"maxSteps": steps},
        checkpoint={"everySteps": 10_000},
        resources={"nodes": nodes, "cpu": "900m" if nodes == 2 else "1500m"},
        scheduling=scheduling,
    )


def queued_program(name: str, seconds: int) -> dict[str, Any]:
    """Waits that long, where only the queue matters."""
    code = f"import time; time.sleep({seconds})"
    return program(name, code, resources={"cpu": "1500m"}, scheduling={"queueName": QUEUE})


@pytest.fixture
def training_queue(queue: str, installed_operator: Access) -> str:
    """The queue, in a namespace with a volume and an operator."""
    installed_operator.create_claim(queue, "finetune")
    return queue


def suspend(job: LiveJob, value: bool) -> None:
    patch = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
    job.cluster.kubectl("patch", KIND, job.name, f"--namespace={job.namespace}", "--type=merge", f"--patch={patch}")


def step_of(status: Status) -> int:
    return (status.progress.step if status.progress else None) or 0


def ready(status: Status) -> tuple[str, str]:
    """Status and message of the condition Ready."""
    return next((item.status, item.message) for item in status.conditions if item.type is ConditionType.READY)


def restarts(status: Status) -> int:
    return status.restarts.total if status.restarts else 0


def resumed_from(status: Status) -> int:
    return (status.checkpoint.resumed_from_step if status.checkpoint else None) or 0


@contextmanager
def watched_exit_codes(job: LiveJob) -> Iterator[set[int]]:
    """The exit codes of the job's containers, also of pods that are gone a moment later."""
    seen: set[int] = set()
    paths = "{.status.containerStatuses[*].state.terminated.exitCode}"
    command = [str(job.cluster.program("kubectl")), f"--kubeconfig={job.cluster.kubeconfig}", "get", "pods"]
    command += [
        f"--namespace={job.namespace}",
        f"--selector={job.selector}",
        "--watch",
        f'--output=jsonpath={paths}{{"\\n"}}',
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        for line in process.stdout or ():
            seen.update(int(code) for code in line.split())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        process.terminate()
        process.wait(timeout=10)
        reader.join(timeout=10)


def test_a_quota_admits_one_fine_tuning_and_the_other_says_why_it_waits(kueue: Access, training_queue: str) -> None:
    first = start(kueue, training_queue, queued_program("first", 20))
    first.wait(lambda status: status.phase == Phase.RUNNING, 120, "the first job's pods")
    second = start(kueue, training_queue, queued_program("second", 1))
    waiting = second.wait(lambda status: status.phase == Phase.QUEUED and "quota" in ready(status)[1], 20, "the reason")

    (child,) = kueue.list("jobs", training_queue, second.selector)
    reserved = condition_of(workload(kueue, training_queue, child["metadata"]["name"]) or {}, "QuotaReserved")
    assert "insufficient unused quota for cpu" in reserved["message"]
    assert ready(waiting)[0] == "True"
    assert reserved["message"] in ready(waiting)[1]
    assert (child["spec"]["suspend"], second.pods()) == (True, [])

    assert first.wait_for_end(300).phase == Phase.SUCCEEDED, first.describe()
    end = second.wait_for_end(300)
    assert (end.phase, end.attempt, restarts(end)) == (Phase.SUCCEEDED, 1, 0), second.describe()
    assert end.usage is not None
    assert end.usage.queued_seconds > 0


def test_a_job_that_kueue_preempts_saves_waits_and_goes_on_in_the_same_attempt(
    kueue: Access, training_queue: str
) -> None:
    patient = start(kueue, training_queue, queued_job("patient", 120, nodes=2))
    patient.wait(lambda status: step_of(status) >= 5, 240, "step 5")
    with watched_exit_codes(patient) as codes:
        urgent = start(kueue, training_queue, queued_job("urgent", 3, urgent=True))
        waiting = patient.wait(lambda status: status.phase == Phase.QUEUED, 60, "the preemption")
        urgent.wait(lambda status: status.phase == Phase.RUNNING, 120, "the urgent job's pods")
    assert codes == {PREEMPTED}
    assert (waiting.attempt, restarts(waiting), waiting.failure) == (1, 0, None)
    assert urgent.wait_for_end(300).phase == Phase.SUCCEEDED, urgent.describe()

    end = patient.wait_for_end(400)
    assert (end.phase, end.attempt, restarts(end)) == (Phase.SUCCEEDED, 1, 0), patient.describe()
    assert resumed_from(end) >= 5


def test_suspension_by_the_user_and_by_kueue_do_not_undo_each_other(kueue: Access, training_queue: str) -> None:
    first = start(kueue, training_queue, queued_job("first", 150))
    first.wait(lambda status: step_of(status) >= 5, 240, "step 5")
    second = start(kueue, training_queue, queued_program("second", 20))
    second.wait(lambda status: status.phase == Phase.QUEUED, 20, "the second job in the queue")

    suspend(second, True)
    second.wait(lambda status: status.phase == Phase.SUSPENDED, 20, "the suspension of the job that waits")
    suspend(first, True)
    first.wait(lambda status: status.phase == Phase.SUSPENDED and not first.pods(), 60, "the suspension that frees")
    time.sleep(QUIET_SECONDS)
    assert (first.status().phase, second.status().phase) == (Phase.SUSPENDED, Phase.SUSPENDED)
    assert (first.pods(), second.pods()) == ([], [])

    suspend(second, False)
    second.wait(lambda status: status.phase == Phase.RUNNING, 120, "the second job on the quota that was freed")
    suspend(first, False)
    first.wait(lambda status: status.phase == Phase.QUEUED, 20, "the first job in the queue again")
    time.sleep(QUIET_SECONDS)
    assert (first.status().phase, first.pods()) == (Phase.QUEUED, [])

    assert second.wait_for_end(300).phase == Phase.SUCCEEDED, second.describe()
    end = first.wait_for_end(300)
    assert (end.phase, restarts(end)) == (Phase.SUCCEEDED, 0), first.describe()
    assert resumed_from(end) >= 5
    assert changes_of_children(kueue, training_queue) == []


def changes_of_children(cluster: Access, namespace: str) -> list[str]:
    """What the operator has written to Jobs that existed: nothing, as the suspension of a child is Kueue's."""
    events = cluster.audit_events()
    ours = [event for event in events if (event.user, event.namespace) == (OPERATOR, namespace)]
    return [
        f"{event.verb} {event.name}" for event in ours if event.resource == "jobs" and event.verb in ("patch", "update")
    ]
