"""The rest of a cluster, played on a fake API server: Job controller, kubelets, garbage collection, nodes, Kueue.

Faithful where the operator depends on it: pods by index, replaced only when the former is over; a pod that fails takes
its Job with it; a deleted Job takes its pods; a terminating pod lives until its kubelet ends it, and on a silent node
for as long as that is silent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_api.names import CONTAINER, LABEL_ATTEMPT, LABEL_ROLE, LABEL_RUN, ROLE_TRAIN
from finetune_operator.core.observe import INDEX_ANNOTATION
from finetune_operator.core.times import elapsed
from finetune_operator.shell.cluster import BATCH_JOB, NODE, POD
from support.fakes import World

Manifest = dict[str, Any]
ENDED = ("Succeeded", "Failed")


@dataclass
class Controllers:
    world: World
    nodes: tuple[str, ...] = ("node-1", "node-2")
    lost_seconds: int = 60
    """Pods of a node that was silent for so long may have been given up: the store's fence holds them, not the gate."""
    _silent_since: dict[str, str] = field(default_factory=dict)
    _names: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        for node in self.nodes:
            self.node(node, ready=True)

    # What they do by themselves

    def step(self) -> None:
        """One round of every controller."""
        jobs = {job["metadata"]["name"]: job for job in self.world.cluster.of(BATCH_JOB)}
        for pod in self.pods():
            if pod["metadata"]["job"] not in jobs:
                self._terminate(pod)
        for job in jobs.values():
            if not self._is_over(job):
                self._control(job)

    def _is_over(self, job: Manifest) -> bool:
        conditions = job.get("status", {}).get("conditions", [])
        return any(one["type"] in ("Complete", "Failed") for one in conditions)

    def _control(self, job: Manifest) -> None:
        own = [pod for pod in self.pods() if pod["metadata"]["job"] == job["metadata"]["name"]]
        status, spec = job.setdefault("status", {}), job["spec"]
        if spec.get("suspend"):
            status.pop("startTime", None)
            status["conditions"] = [{"type": "Suspended", "status": "True"}]
            for pod in own:
                pod["metadata"]["suspended"] = pod["status"]["phase"] not in ENDED
                self._terminate(pod)
        else:
            status.setdefault("startTime", self.world.now)
            for one in status.get("conditions", []):
                one["status"] = "False" if one["type"] == "Suspended" else one["status"]
            self._run(job, own)
        self.world.cluster.put(BATCH_JOB, job)

    def _run(self, job: Manifest, own: list[Manifest]) -> None:
        ended = (pod for pod in own if pod["status"]["phase"] == "Failed" and not pod["metadata"].get("suspended"))
        failed = next(ended, None)
        if failed is not None or self._is_failing(job):
            self._fail(job, own, failed)
            return
        if sum(pod["status"]["phase"] == "Succeeded" for pod in own) == job["spec"]["completions"]:
            job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
            return
        there = {pod["metadata"]["annotations"][INDEX_ANNOTATION] for pod in own}
        for index in range(job["spec"]["completions"]):
            if str(index) not in there:
                self._create(job, index)

    def _is_failing(self, job: Manifest) -> bool:
        return any(one["type"] == "FailureTarget" for one in job["status"].get("conditions", []))

    def _fail(self, job: Manifest, own: list[Manifest], failed: Manifest | None) -> None:
        """Sure to fail at once; failed when every pod is over."""
        for pod in own:
            self._terminate(pod)
        over = all(pod["status"]["phase"] in ENDED for pod in own)
        message = f"Pod {failed['metadata']['name']} failed" if failed else "a pod failed"
        kind = "Failed" if over else "FailureTarget"
        job["status"]["conditions"] = [
            {"type": kind, "status": "True", "reason": "PodFailurePolicy", "message": message}
        ]

    def _create(self, job: Manifest, index: int) -> None:
        number = next(self._names)
        template = job["spec"]["template"]
        metadata = {
            "name": f"{job['metadata']['name']}-{index}-{number:05}",
            "namespace": job["metadata"]["namespace"],
            "labels": dict(template["metadata"]["labels"]),
            "annotations": {INDEX_ANNOTATION: str(index)},
            "job": job["metadata"]["name"],
        }
        status = {"phase": "Pending", "conditions": []}
        self.world.cluster.put(POD, {"metadata": metadata, "spec": {}, "status": status})

    def _terminate(self, pod: Manifest) -> None:
        if pod["status"]["phase"] in ENDED or "deletionTimestamp" in pod["metadata"]:
            return
        pod["metadata"] |= {"deletionTimestamp": self.world.now, "deletionGracePeriodSeconds": 0}
        self.world.cluster.put(POD, pod)

    # What a test has them do

    def pods(self) -> list[Manifest]:
        return self.world.cluster.of(POD)

    def live(self) -> list[Manifest]:
        """Pods that may train: not over, on a node that is ready."""
        return [
            pod
            for pod in self.pods()
            if pod["status"]["phase"] not in ENDED
            and not pod["metadata"].get("givenUp")
            and self.is_ready(pod["spec"].get("nodeName", self.nodes[0]))
            and pod["metadata"]["labels"].get(LABEL_ROLE) == ROLE_TRAIN
        ]

    def gangs(self) -> set[tuple[str, str]]:
        """Run and attempt of every pod that may train."""
        labels = [pod["metadata"]["labels"] for pod in self.live()]
        return {(one[LABEL_RUN], one[LABEL_ATTEMPT]) for one in labels}

    def start_pods(self) -> None:
        """Kubelets start what is placed on a node that is ready."""
        for pod in self.pods():
            if pod["status"]["phase"] != "Pending" or "deletionTimestamp" in pod["metadata"]:
                continue
            ready = [node for node in self.nodes if self.is_ready(node)]
            if ready:
                index = int(pod["metadata"]["annotations"][INDEX_ANNOTATION])
                pod["spec"]["nodeName"] = ready[index % len(ready)]
                state = {"name": CONTAINER, "state": {"running": {}}}
                conditions = [{"type": "Ready", "status": "True"}]
                pod["status"] = {"phase": "Running", "conditions": conditions, "containerStatuses": [state]}
                self.world.cluster.put(POD, pod)

    def end(self, pod: Manifest, code: int, message: str | None = None) -> None:
        """The container of a pod on a node that is ready ends with this code."""
        if pod["status"]["phase"] in ENDED or not self.is_ready(pod["spec"].get("nodeName", self.nodes[0])):
            return
        end = {"exitCode": code, "finishedAt": self.world.now, "reason": "Error" if code else "Completed"}
        terminated = end | ({"message": message} if message else {})
        pod["status"] = {
            "phase": "Failed" if code else "Succeeded",
            "conditions": [],
            "containerStatuses": [{"name": CONTAINER, "state": {"terminated": terminated}}],
        }
        self.world.cluster.put(POD, pod)

    def end_terminating(self) -> None:
        """Kubelets end what is to be ended, after it saved; then it is gone."""
        for pod in self.pods():
            if "deletionTimestamp" not in pod["metadata"]:
                continue
            self.end(pod, 75)
            if pod["status"]["phase"] in ENDED:
                self._remove(pod)

    def delete_pod(self, pod: Manifest) -> None:
        self._terminate(pod)
        if pod["status"]["phase"] in ENDED:
            self._remove(pod)

    def _remove(self, pod: Manifest) -> None:
        metadata = pod["metadata"]
        self.world.cluster.objects.pop((POD, metadata["namespace"], metadata["name"]), None)

    def node(self, name: str, *, ready: bool) -> None:
        silence = elapsed(self._silent_since.pop(name, self.world.now), self.world.now)
        if not ready:
            self._silent_since[name] = self.world.now
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": self.world.now}
        self.world.cluster.put(NODE, {"metadata": {"name": name}, "status": {"conditions": [condition]}})
        for pod in self.pods():
            if pod["spec"].get("nodeName") == name and pod["status"]["phase"] == "Running":
                pod["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]
                pod["metadata"]["givenUp"] = pod["metadata"].get("givenUp") or silence >= self.lost_seconds
                self.world.cluster.put(POD, pod)

    def is_ready(self, node: str) -> bool:
        body = self.world.cluster.objects[NODE, "", node]
        return bool(body["status"]["conditions"][0]["status"] == "True")

    def hold_back(self, held: bool) -> None:
        """Kueue suspends every Job that is not over, or lets all go again."""
        for job in self.world.cluster.of(BATCH_JOB):
            over = any(one["type"] != "Suspended" for one in job.get("status", {}).get("conditions", []))
            if not over and job["spec"].get("suspend", False) is not held:
                job["spec"]["suspend"] = held
                self.world.cluster.put(BATCH_JOB, job)
