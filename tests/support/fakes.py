"""Fakes at the edges: an API server that records and can be told to fail, and the rest of the cluster by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from finetune_api.status import Status
from finetune_operator.core.job import read_status
from finetune_operator.core.times import seconds
from finetune_operator.shell import errors
from finetune_operator.shell.cluster import (
    BATCH_JOB,
    CONFIG_MAP,
    EVENT,
    JOB,
    LEASE,
    NODE,
    POD,
    RUNTIME,
    SECRET,
    SERVICE,
    WORKLOAD,
    Kind,
    Listing,
    Manifest,
)
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.reconcile import Reconciler
from finetune_operator.shell.store import WATCHED, Key, Store
from support.builders import ENDPOINT, NOW, AChildJob, AJob, APod, AWorkload

KINDS = (JOB, RUNTIME, BATCH_JOB, POD, SERVICE, CONFIG_MAP, SECRET, NODE, EVENT, LEASE, WORKLOAD)
KIND_NAMES = {"FineTuneJob": JOB, "FineTuneRuntime": RUNTIME}


Result = TypeVar("Result")


class Crash(BaseException):
    """The process dies here; no handler of errors may catch it."""


@dataclass
class FakeCluster:
    """An API server in memory: versions, conflicts and owners as the real one has them; every write is recorded.

    `before` is called with each write before it counts and may raise; `after` once it is committed, when the reply
    is lost if it raises.
    """

    clock: Callable[[], str]
    objects: dict[tuple[Kind, str, str], Manifest] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    documents: dict[str, Manifest] = field(default_factory=dict)
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def list(self, kind: Kind, namespace: str | None, selector: str = "", fields: str = "") -> Listing:
        self.reads.append(f"list {kind.plural}")
        wanted, values = (dict(part.split("=") for part in text.split(",") if part) for text in (selector, fields))
        found = [
            _copy(body)
            for (its_kind, its_namespace, _), body in self.objects.items()
            if its_kind is kind and namespace in (None, its_namespace) and wanted.items() <= _labels(body).items()
            if all(body.get(name) == value for name, value in values.items())
        ]
        return Listing(found, next(self._versions))

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        self.reads.append(f"get {kind.plural}")
        return _copy(self.objects.get((kind, namespace or "", name)))

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        body = _copy(manifest)
        metadata = body["metadata"]
        metadata.setdefault("name", f"{metadata.get('generateName', '')}{next(self._versions)}")
        return self._commit("create", kind, body, exists=False)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        return self._commit("update", kind, _copy(manifest), exists=True)

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        write = f"delete {kind.plural}"
        self.before(write)
        if self.objects.pop((kind, namespace, name), None) is not None:
            self.writes.append(write)
        self.after(write)

    async def patch_status(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        stored = self.objects.get((kind, namespace, name))
        if stored is None:
            raise errors.NotFound(name)
        if patch["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"]:
            raise errors.Conflict(name)
        body = {**_copy(stored), "status": _merge(stored.get("status", {}), patch["status"])}
        return self._commit("patch", kind, body, exists=True, suffix="/status")

    async def read(self, path: str) -> Manifest:
        self.reads.append(f"get {path}")
        if path not in self.documents:
            raise errors.NotFound(path)
        return self.documents[path]

    def _commit(self, verb: str, kind: Kind, body: Manifest, exists: bool, suffix: str = "") -> Manifest:
        write = f"{verb} {kind.plural}{suffix}"
        self.before(write)
        metadata = body["metadata"]
        place = (kind, metadata.get("namespace", ""), metadata["name"])
        stored = self.objects.get(place)
        if (stored is not None) is not exists:
            raise errors.Conflict(f"{kind.plural} {metadata['name']}")
        if stored is not None and metadata.get("resourceVersion") not in (None, stored["metadata"]["resourceVersion"]):
            raise errors.Conflict(f"{kind.plural} {metadata['name']}")
        self.put(kind, body)
        self.writes.append(write)
        self.after(write)
        return _copy(self.objects[place])

    def put(self, kind: Kind, body: Manifest) -> None:
        """What somebody else writes: it is not recorded."""
        metadata = body["metadata"]
        metadata.setdefault("uid", f"uid-{metadata['name']}-{next(self._versions)}")
        metadata.setdefault("creationTimestamp", self.clock())
        metadata["resourceVersion"] = str(next(self._versions))
        self.objects[kind, metadata.get("namespace", ""), metadata["name"]] = _copy(body)

    def of(self, kind: Kind) -> list[Manifest]:
        return [body for (its_kind, _, _), body in self.objects.items() if its_kind is kind]


def _copy(body: Any) -> Any:
    """What arrives on the other side of a connection."""
    return json.loads(json.dumps(body))


def _labels(body: Manifest) -> dict[str, str]:
    labels: dict[str, str] = body["metadata"].get("labels", {})
    return labels


def _merge(base: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


def finish(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which never waits: every answer of the fake is there at once."""
    try:
        work.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("the work waits for something")


class World:
    """One operator's reconciler before a fake API server; the test plays the other controllers and the user."""

    def __init__(self) -> None:
        self.now = NOW
        self.cluster = FakeCluster(clock=lambda: self.now)
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": NOW}
        self.cluster.put(NODE, {"metadata": {"name": "node-1"}, "status": {"conditions": [ready]}})
        self.restart_operator()

    def restart_operator(self) -> None:
        """A new process, which knows only what the API server has."""
        self.store = Store()
        self.metrics_registry = CollectorRegistry()
        self.reconciler = Reconciler(
            self.cluster, self.store, Metrics(self.metrics_registry), ENDPOINT, "finetune", lambda: self.now
        )

    def later(self, by: float) -> None:
        moment = int(seconds(self.now) + by)
        day, rest = divmod(moment - int(seconds("2026-11-21T00:00:00Z")), 86400)
        self.now = f"2026-11-{21 + day:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"

    def user_applies(self, job: AJob) -> None:
        """The manifest, with the status that the object has."""
        body = _copy(job.manifest)
        stored = self.cluster.objects.get((JOB, body["metadata"]["namespace"], body["metadata"]["name"]))
        if stored is not None:
            body["status"] = stored.get("status", {})
        self.cluster.put(JOB, body)

    def runtime(self, name: str = "default", namespace: str = "finetune", **spec: Any) -> None:
        metadata = {"name": name, "namespace": namespace, "uid": f"runtime-{namespace}-{name}"}
        self.cluster.put(RUNTIME, {"metadata": metadata, "spec": spec})

    def has(self, *objects: APod | AChildJob | AWorkload) -> None:
        """The state that kubelets, the Job controller and Kueue bring their objects to."""
        kinds = {APod: POD, AChildJob: BATCH_JOB, AWorkload: WORKLOAD}
        for one in objects:
            self.cluster.put(kinds[type(one)], one.manifest)

    def warned(self, name: str, reason: str, message: str) -> None:
        """An Event of a controller or a kubelet about an object of this name."""
        involved = {"namespace": "team-a", "name": name}
        told = {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": self.now}
        metadata = {"namespace": "team-a", "name": f"{name}.{reason}"}
        self.cluster.put(EVENT, {"metadata": metadata, "involvedObject": involved, **told})

    def gone(self, *pods: APod) -> None:
        """Deleted, after the watch told of their last state."""
        for pod in pods:
            manifest = pod.manifest
            self.cluster.objects.pop((POD, manifest["metadata"]["namespace"], manifest["metadata"]["name"]), None)

    def watch(self, kinds: Iterable[Kind] = WATCHED) -> None:
        """The watches of these kinds bring the store up to date."""
        for kind in kinds:
            listing = Listing(_copy(self.cluster.of(kind)), next(self.cluster._versions))
            self.store.replace(kind, listing, within=None)

    def settle(self, job: str = "reviews", passes: int = 8) -> float | None:
        """Passes, as the queue would make them, until no more is wanted at once. Returns what is wanted later."""
        key = Key("team-a", job)
        for _ in range(passes):
            self.watch()
            try:
                again = finish(self.reconciler.reconcile(key))
            except errors.Conflict:
                finish(self.reconciler.refresh_job(key))
                continue
            if again is None or again > 0:
                return again
        raise AssertionError(f"still not settled after {passes} passes")

    def status(self, job: str = "reviews") -> Status:
        return read_status(self.cluster.objects[JOB, "team-a", job].get("status", {}))

    def written(self) -> list[str]:
        """What was written since the last call."""
        writes, self.cluster.writes = self.cluster.writes, []
        return writes

    def events(self) -> list[str]:
        """Those that the operator told, in their order."""
        return [body["reason"] for body in self.cluster.of(EVENT) if body.get("reportingComponent")]

    def names(self, kind: Kind) -> list[str]:
        return sorted(body["metadata"]["name"] for body in self.cluster.of(kind))
