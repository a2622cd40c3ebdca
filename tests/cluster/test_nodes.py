"""A node is lost: its job says so, never runs twice, and goes on from its checkpoint."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from finetune_api.progress import FailureClass
from finetune_api.status import Phase, Status
from support.cluster import Access
from support.cluster.access import Object
from support.cluster.cluster import SecondNode
from support.cluster.layout import NODE_NAMES, SECOND_NODE_TAINT
from support.cluster.waiting import wait_for
from support.example_jobs import quickstart
from support.live import LiveJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NODE_LOST_SECONDS = 10
# The controller manager waits 20 seconds before it calls a node silent, and looks every five.
SILENCE_IS_TOLD = 20 + 5
FOR_THE_OPERATOR = 15
# What a pod has to save when it is told to stop; its peers may be out of reach.
GRACE_SECONDS = 10
STILL_SECONDS = 30


# The harness


def pod(namespace: str, name: str, image: str, node: str, *command: str) -> Object:
    """A pod on a node of the test's choice, with the volume that all share."""
    container = {
        "name": "main",
        "image": image,
        "command": list(command),
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "tolerations": [{**SECOND_NODE_TAINT, "operator": "Exists"}],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": "shared"}}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    metadata = {"name": name, "namespace": namespace, "labels": {"pod": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(namespace: str, name: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    spec = {"selector": {"pod": name}, "ports": [{"port": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


ASK = textwrap.dedent(
    """
    import pathlib, time, urllib.request

    pathlib.Path("/volume/greeting").write_text("hello")
    for attempt in range(60):
        try:
            print(urllib.request.urlopen("http://far:8080/greeting", timeout=1).read().decode())
            break
        except OSError:
            time.sleep(0.5)
    """
)


def phase_of(cluster: Access, namespace: str, name: str) -> str:
    return str((cluster.get("pod", name, namespace) or {}).get("status", {}).get("phase"))


def test_pods_of_two_nodes_reach_each_other_and_share_a_volume(
    cluster: Access, namespace: str, second_node: SecondNode
) -> None:
    cluster.create_claim(namespace, "shared")
    image = cluster.images().operator
    serve = ("python", "-m", "http.server", "8080", "--directory=/volume")
    cluster.apply(service(namespace, "far"), pod(namespace, "far", image, second_node.name, *serve))
    cluster.apply(pod(namespace, "near", image, NODE_NAMES[0], "python", "-c", ASK))
    wait_for(cluster, namespace, lambda: phase_of(cluster, namespace, "near") == "Succeeded", 60, "the answer")
    assert cluster.kubectl("logs", "near", f"--namespace={namespace}") == "hello\n"


def test_a_node_that_is_lost_falls_silent_and_can_be_found_again(
    cluster: Access, namespace: str, second_node: SecondNode
) -> None:
    second_node.lose()
    wait_for(cluster, namespace, lambda: not node_is_ready(cluster, second_node), SILENCE_IS_TOLD + 10, "its silence")
    second_node.find()
    assert node_is_ready(cluster, second_node)


def node_is_ready(cluster: Access, second_node: SecondNode) -> bool:
    return is_ready(cluster.get("node", second_node.name) or {"status": {"conditions": []}})


# FineTuneJobs


def two_node_job(name: str, **changes: Any) -> dict[str, Any]:
    """Two pods that fit on no single node of two processors."""
    return quickstart(
        name,
        training={"maxSteps": 60},
        checkpoint={"everySteps": 5, "graceSeconds": GRACE_SECONDS},
        resources={"nodes": 2, "cpu": "1500m"},
        runPolicy={"nodeLostSeconds": NODE_LOST_SECONDS},
        podTemplate={"spec": {"tolerations": [{**SECOND_NODE_TAINT, "operator": "Exists"}]}},
        **changes,
    )


def start(cluster: Access, namespace: str, manifest: dict[str, Any]) -> LiveJob:
    cluster.create_claim(namespace, "finetune")
    manifest["metadata"]["namespace"] = namespace
    cluster.apply(manifest)
    return LiveJob(cluster, namespace, manifest["metadata"]["name"])


def saved_step(status: Status) -> int:
    return (status.checkpoint.step if status.checkpoint else None) or 0


def resumed_from(status: Status) -> int:
    return (status.checkpoint.resumed_from_step if status.checkpoint else None) or 0


def attempt_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["finetune.dev/attempt"])


def live_attempts(cluster: Access, job: LiveJob) -> set[str]:
    """The attempts that have a pod which has not ended, on a node that the cluster hears of."""
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output=json"))["items"]
    ready = {node["metadata"]["name"] for node in nodes if is_ready(node)}
    alive = [pod for pod in job.pods() if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    return {attempt_of(pod) for pod in alive if pod["spec"].get("nodeName") in ready}


def is_ready(node: Object) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in node["status"]["conditions"])


@contextmanager
def watched_attempts(cluster: Access, job: LiveJob) -> Iterator[list[set[str]]]:
    """Which attempts were alive, again and again until the block ends."""
    seen: list[set[str]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            seen.append(live_attempts(cluster, job))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join(timeout=10)


def lose_the_second_node(job: LiveJob, second_node: SecondNode) -> Status:
    """Waits for a checkpoint of both nodes, takes one of them away, and returns the status that tells of it."""
    job.wait(lambda status: saved_step(status) >= 5, 300, "a checkpoint")
    assert {pod["spec"]["nodeName"] for pod in job.pods()} == set(NODE_NAMES)
    second_node.lose()
    seconds = SILENCE_IS_TOLD + NODE_LOST_SECONDS + FOR_THE_OPERATOR
    return job.wait(lambda status: status.failure is not None, seconds, "the loss of the node")


def test_a_job_whose_node_is_lost_goes_on_with_the_nodes_that_are_left(
    installed_operator: Access, namespace: str, second_node: SecondNode
) -> None:
    elastic = {"minNodes": 1, "waitSeconds": 20}
    job = start(installed_operator, namespace, two_node_job("shrinks", elastic=elastic))
    with watched_attempts(installed_operator, job) as seen:
        told = lose_the_second_node(job, second_node)
        assert told.failure is not None
        assert (told.phase, told.failure.class_, told.failure.node) == (
            Phase.RESTARTING,
            FailureClass.NODE_LOST,
            second_node.name,
        )
        running = job.wait(lambda status: status.phase == Phase.RUNNING, 240, "the next attempt")
        assert running.nodes is not None
        assert running.nodes.desired == 1
        assert stuck_pods(job, second_node), "the lost pod must be on its way out for ever, and in nobody's way"
        end = job.wait_for_end(400)
    assert end.phase == Phase.SUCCEEDED, job.describe()
    assert resumed_from(end) >= 5
    assert end.restarts is not None
    assert (end.restarts.infra, end.restarts.program) == (1, 0)
    first, *_, last = end.history
    assert (first.class_, first.nodes, first.node) == (FailureClass.NODE_LOST, 2, second_node.name)
    assert (last.result, last.nodes) == ("Succeeded", 1)
    assert all(len(attempts) <= 1 for attempts in seen), "two attempts were alive at a time"


def stuck_pods(job: LiveJob, second_node: SecondNode) -> list[str]:
    """Pods on the lost node that are told to end and cannot say that they have."""
    there = [pod["metadata"] for pod in job.pods() if pod["spec"].get("nodeName") == second_node.name]
    return [metadata["name"] for metadata in there if "deletionTimestamp" in metadata]


def test_a_job_that_cannot_shrink_waits_for_its_node_and_goes_on_when_it_is_back(
    installed_operator: Access, namespace: str, second_node: SecondNode
) -> None:
    job = start(installed_operator, namespace, two_node_job("waits"))
    with watched_attempts(installed_operator, job) as seen:
        told = lose_the_second_node(job, second_node)
        assert told.failure is not None
        assert (told.phase, told.failure.class_) == (Phase.RESTARTING, FailureClass.NODE_LOST)
        job.wait(lambda status: status.attempt == 2, 120, "the next attempt")
        time.sleep(STILL_SECONDS)
        assert job.status().phase == Phase.RESTARTING
    assert all(len(attempts) <= 1 for attempts in seen), "two attempts were alive at a time"

    # The lost pod comes back with its node. It was told to end long ago, and the fence keeps it from publishing.
    second_node.find()
    running = job.wait(lambda status: status.phase == Phase.RUNNING, 240, "the next attempt on both nodes")
    assert running.nodes is not None
    assert (running.attempt, running.nodes.desired) == (2, 2)
    assert {attempt_of(pod) for pod in job.pods()} == {"2"}
    end = job.wait_for_end(400)
    assert (end.phase, end.attempt) == (Phase.SUCCEEDED, 2), job.describe()
    assert resumed_from(end) >= 5
    assert end.restarts is not None
    assert (end.restarts.infra, end.restarts.program) == (1, 0)
