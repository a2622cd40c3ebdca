"""Builders of the objects that tests are about: what a test does not name has a value that works."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_api import names
from finetune_api.progress import Outcome
from finetune_api.status import Status
from finetune_operator.core.job import Job, read_job
from finetune_operator.core.layers import merge
from finetune_operator.core.observe import INDEX_ANNOTATION
from finetune_operator.core.plan import Plan, Runtime, Runtimes, plan
from finetune_operator.core.pod import Endpoint

NOW = "2026-11-21T10:00:00Z"
UID = "0a1b2c3d-0000-4000-8000-000000000001"
ENDPOINT = Endpoint(url="https://finetune-operator.finetune.svc:10443", ca="-----BEGIN CERTIFICATE-----\n")
RUNTIME = Runtime("finetune", "default", {"image": "trainer:1"})
RUNTIMES = Runtimes(default=RUNTIME)

Manifest = dict[str, Any]


@dataclass(frozen=True)
class AJob:
    """A FineTuneJob."""

    manifest: Manifest

    def with_spec(self, **fields: Any) -> AJob:
        """With `fields` merged into the spec."""
        return AJob(merge(self.manifest, {"spec": fields}))

    def with_nodes(self, nodes: int) -> AJob:
        return self.with_spec(resources={"nodes": nodes})

    def with_policy(self, **fields: Any) -> AJob:
        return self.with_spec(runPolicy=fields)

    def suspended(self, suspend: bool = True) -> AJob:
        return self.with_policy(suspend=suspend)

    def edited(self, **fields: Any) -> AJob:
        """With `fields` changed by a person, as another generation."""
        generation = self.manifest["metadata"]["generation"] + 1
        return AJob(merge(self.with_spec(**fields).manifest, {"metadata": {"generation": generation}}))

    def with_status(self, status: Status | Manifest) -> AJob:
        raw = status.to_dict() if isinstance(status, Status) else status
        return AJob({**self.manifest, "status": raw})

    @property
    def job(self) -> Job:
        return read_job(copy.deepcopy(self.manifest))

    def plan(self, runtimes: Runtimes = RUNTIMES, run: int = 1) -> Plan:
        made = plan(self.job, run, runtimes)
        assert isinstance(made, Plan), made
        return made


def a_job(name: str = "reviews", namespace: str = "team-a", uid: str = UID) -> AJob:
    return AJob(
        {
            "apiVersion": names.API_VERSION,
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "generation": 1, "resourceVersion": "1"},
            "spec": {
                "task": "text-classification",
                "model": {"uri": "hf://google-bert/bert-base-uncased"},
                "dataset": {"train": [{"uri": "pvc://data/train.csv"}]},
                "output": {"uri": "pvc://models/reviews"},
            },
        }
    )


def _labels(run: int, attempt: int, job: str, role: str) -> Manifest:
    return {
        names.LABEL_ROLE: role,
        names.LABEL_JOB: job,
        names.LABEL_RUN: str(run),
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_MANAGED_BY: names.MANAGER,
    }


@dataclass(frozen=True)
class APod:
    """A training pod; rank 0 of the first attempt, running, if nothing else is said."""

    rank: int = 0
    run: int = 1
    attempt: int = 1
    job: str = "reviews"
    namespace: str = "team-a"
    node: str | None = "node-1"
    phase: str = "Running"
    conditions: tuple[Manifest, ...] = ({"type": "Ready", "status": "True"},)
    state: Manifest = field(default_factory=lambda: {"running": {}})
    container: str = names.CONTAINER
    deleted: Manifest = field(default_factory=dict)
    status: Manifest = field(default_factory=dict)
    role: str = names.ROLE_TRAIN
    created: str = NOW

    @property
    def name(self) -> str:
        attempt = names.attempt_name(self.job, UID, self.run, self.attempt)
        of = names.fetch_name(attempt) if self.role == names.ROLE_FETCH else attempt
        return f"{of}-{self.rank}-abcde"

    def that_fetches(self) -> APod:
        """The pod that downloads, instead of one that trains."""
        return replace(self, role=names.ROLE_FETCH)

    def born(self, at: str) -> APod:
        return replace(self, created=at)

    def on(self, node: str) -> APod:
        return replace(self, node=node)

    def of_attempt(self, attempt: int, run: int = 1) -> APod:
        return replace(self, run=run, attempt=attempt)

    def pending(self, reason: str | None = None, message: str = "") -> APod:
        waiting = {"waiting": {"reason": reason or "ContainerCreating", "message": message}}
        return replace(self, phase="Pending", conditions=(), state=waiting)

    def unschedulable(self, message: str) -> APod:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        return replace(self, phase="Pending", conditions=(condition,), state={}, node=None)

    def not_ready(self) -> APod:
        return replace(self, conditions=({"type": "Ready", "status": "False"},))

    def _ended(self, phase: str, code: int, at: str, message: str | None, reason: str) -> APod:
        end = {"exitCode": code, "finishedAt": at, "reason": reason} | ({"message": message} if message else {})
        return replace(self, phase=phase, conditions=(), state={"terminated": end})

    def succeeded(self, outcome: Outcome | None = None) -> APod:
        message = outcome.termination_message() if outcome else None
        return self._ended("Succeeded", 0, NOW, message, "Completed")

    def failed(
        self,
        code: int,
        at: str = NOW,
        message: str | None = None,
        reason: str = "Error",
        outcome: Outcome | None = None,
    ) -> APod:
        message = outcome.termination_message() if outcome else message
        return self._ended("Failed", code, at, message, reason)

    def evicted(self, reason: str = "Evicted", message: str = "The node was low on resource: memory.") -> APod:
        """Ended by its node before its container had a state."""
        return replace(self, phase="Failed", conditions=(), state={}, status={"reason": reason, "message": message})

    def disrupted(self, reason: str) -> APod:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
        return replace(self, conditions=(*self.conditions, condition))

    def being_deleted(self, at: str = NOW, grace: int = 0) -> APod:
        """Told to stop; `at` is when its grace period is over."""
        return replace(self, deleted={"deletionTimestamp": at, "deletionGracePeriodSeconds": grace})

    @property
    def manifest(self) -> Manifest:
        container = {"name": self.container, "state": self.state}
        return {
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": f"uid-of-{self.name}",
                "labels": _labels(self.run, self.attempt, self.job, self.role),
                "creationTimestamp": self.created,
                "annotations": {INDEX_ANNOTATION: str(self.rank)},
                **self.deleted,
            },
            "spec": {"nodeName": self.node} if self.node else {},
            "status": {
                "phase": self.phase,
                "conditions": list(self.conditions),
                **({"containerStatuses": [container]} if self.state else {}),
                **self.status,
            },
        }


def a_pod(rank: int = 0) -> APod:
    return APod(rank)


@dataclass(frozen=True)
class AChildJob:
    """The batch/v1 Job of an attempt; active, if nothing else is said."""

    attempt: int = 1
    run: int = 1
    job: str = "reviews"
    namespace: str = "team-a"
    conditions: tuple[Manifest, ...] = ()
    role: str = names.ROLE_TRAIN
    nodes: int = 2
    suspend: bool = False
    started: str | None = NOW

    @property
    def name(self) -> str:
        attempt = names.attempt_name(self.job, UID, self.run, self.attempt)
        return names.fetch_name(attempt) if self.role == names.ROLE_FETCH else attempt

    def that_fetches(self) -> AChildJob:
        """The Job that downloads, instead of the one that trains."""
        return replace(self, role=names.ROLE_FETCH, nodes=1)

    def held_back(self) -> AChildJob:
        """Suspended by its queue."""
        return replace(self, suspend=True, started=None, conditions=({"type": "Suspended", "status": "True"},))

    def let_go(self, at: str = NOW) -> AChildJob:
        return replace(self, suspend=False, started=at, conditions=({"type": "Suspended", "status": "False"},))

    def complete(self) -> AChildJob:
        return replace(self, conditions=({"type": "Complete", "status": "True"},))

    def failed(self, message: str = "Job has reached the specified backoff limit", reason: str = "") -> AChildJob:
        condition = {"type": "Failed", "status": "True", "message": message, "reason": reason or "BackoffLimitExceeded"}
        return replace(self, conditions=(condition,))

    def failing(self) -> AChildJob:
        """Sure to fail, while the pods that are left are told to stop."""
        return replace(self, conditions=tuple({**one, "type": "FailureTarget"} for one in self.conditions))

    def failed_by_rule(self, rule: int, code: int, pod: str = "reviews-0a1b2-r1a1-0-abcde") -> AChildJob:
        message = (
            f"Container trainer for pod team-a/{pod} failed with exit code {code} matching FailJob rule at index {rule}"
        )
        return self.failed(message, "PodFailurePolicy")

    @property
    def manifest(self) -> Manifest:
        return {
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": f"uid-of-{self.name}",
                "labels": _labels(self.run, self.attempt, self.job, self.role),
                "creationTimestamp": NOW,
            },
            "spec": {"suspend": self.suspend, "completions": self.nodes},
            "status": {
                "conditions": list(self.conditions),
                **({"startTime": self.started} if self.started else {}),
            },
        }


def a_child_job(attempt: int = 1, run: int = 1) -> AChildJob:
    return AChildJob(attempt, run)


@dataclass(frozen=True)
class AWorkload:
    """What Kueue says of a child Job; admitted, if nothing else is said."""

    of: AChildJob
    conditions: tuple[Manifest, ...] = ()

    def waiting(self, message: str, reason: str = "Pending") -> AWorkload:
        condition = {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
        return replace(self, conditions=(condition,))

    def evicted(self, reason: str, message: str) -> AWorkload:
        condition = {"type": "Evicted", "status": "True", "reason": reason, "message": message}
        return replace(self, conditions=(condition, *self.conditions))

    @property
    def manifest(self) -> Manifest:
        return {
            "metadata": {
                "name": f"job-{self.of.name}",
                "namespace": self.of.namespace,
                "uid": f"uid-of-workload-{self.of.name}",
                "ownerReferences": [{"kind": "Job", "name": self.of.name}],
            },
            "status": {"conditions": list(self.conditions)},
        }
