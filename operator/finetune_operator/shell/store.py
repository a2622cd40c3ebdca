"""What the watches told last, cut down to what the core reads. A periodic re-list repairs it."""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_RUN
from finetune_operator.core.observe import INDEX_ANNOTATION
from finetune_operator.shell.cluster import BATCH_JOB, JOB, POD, RUNTIME, WORKLOAD, Kind, Listing, Manifest

WATCHED = (RUNTIME, BATCH_JOB, WORKLOAD, POD, JOB)
"""Jobs come last: a job is looked at when its children are known. Kueue's Workloads only where they are served."""
CHILD = re.compile(r"^(?P<job>.+)-[0-9a-f]{5}-r\d+a\d+$")


@dataclass(frozen=True)
class Key:
    """Namespace and name of a FineTuneJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(kind: Kind, body: Manifest) -> Key:
    """The job that an object belongs to; for a runtime its own namespace and name."""
    metadata = body["metadata"]
    if kind is WORKLOAD:
        return Key(metadata["namespace"], _job_of_workload(metadata) or "")
    name = metadata["name"] if kind in (JOB, RUNTIME) else metadata.get("labels", {}).get(LABEL_JOB, "")
    return Key(metadata["namespace"], name)


def _job_of_workload(metadata: Manifest) -> str | None:
    """The FineTuneJob whose child Job a Workload admits, by the child's name."""
    found = (CHILD.match(owner.get("name", "")) for owner in metadata.get("ownerReferences") or [])
    return next((match["job"] for match in found if match), None)


def is_ours(kind: Kind, body: Manifest) -> bool:
    """Whether an object matters to us; of Kueue's Workloads most may not."""
    return kind is not WORKLOAD or _job_of_workload(body["metadata"]) is not None


REMOVED_KEPT = 4096
"""How many removed objects are remembered, so that a list taken before does not bring them back."""


class Store:
    def __init__(self) -> None:
        self._removed: OrderedDict[str, None] = OrderedDict()
        self._objects: dict[Kind, dict[Key, dict[str, Manifest]]] = {kind: defaultdict(dict) for kind in WATCHED}
        self._gone: dict[Key, dict[str, Manifest]] = defaultdict(dict)

    def put(self, kind: Kind, body: Manifest) -> bool:
        """Remember `body` unless something newer is known. Returns whether it brings news that the core reads."""
        siblings, name = self._objects[kind][key_of(kind, body)], body["metadata"]["name"]
        former = siblings.get(name)
        if body["metadata"]["uid"] in self._removed or (former is not None and not _newer(body, former)):
            return False
        siblings[name] = _trim(kind, body)
        return former is None or _without_version(former) != _without_version(siblings[name])

    def remove(self, kind: Kind, body: Manifest) -> bool:
        """Forget an object; of a pod the last words stay until `settle`. Returns whether it was known."""
        key, name = key_of(kind, body), body["metadata"]["name"]
        siblings = self._objects[kind][key]
        former = siblings.get(name)
        if former is not None and former["metadata"]["uid"] != body["metadata"]["uid"]:
            return False
        if kind is POD:
            self._gone[key][name] = _trim(kind, body)
        if kind is JOB:
            self._gone.pop(key, None)
        self._removed[body["metadata"]["uid"]] = None
        if len(self._removed) > REMOVED_KEPT:
            self._removed.popitem(last=False)
        known = siblings.pop(name, None) is not None
        if not siblings:
            del self._objects[kind][key]
        return known

    def settle(self, key: Key, run: int, attempt: int) -> None:
        """Forget the last words of pods that are not of this attempt."""
        kept = {
            name: body
            for name, body in self._gone.get(key, {}).items()
            if (body["metadata"]["labels"].get(LABEL_RUN), body["metadata"]["labels"].get(LABEL_ATTEMPT))
            == (str(run), str(attempt))
        }
        if kept:
            self._gone[key] = kept
        else:
            self._gone.pop(key, None)

    def replace(self, kind: Kind, listing: Listing, within: Key | str | None) -> set[Key]:
        """Make the store agree with a list of one job, one namespace or everything; returns whose objects differed.

        What is not in the list stays if it is newer than the list.
        """
        found = [body for body in listing.items if is_ours(kind, body)]
        listed = {(key_of(kind, body), body["metadata"]["name"]): body for body in found}
        repaired = {key for (key, _), body in listed.items() if self.put(kind, body)}
        for body in [body for body in self.all(kind) if _is_within(key_of(kind, body), within)]:
            key, metadata = key_of(kind, body), body["metadata"]
            if (key, metadata["name"]) in listed or int(metadata["resourceVersion"]) > listing.version:
                continue
            self.remove(kind, body)
            repaired.add(key)
        return repaired

    def all(self, kind: Kind) -> Iterator[Manifest]:
        """Every object of a kind; may be called from another thread."""
        for siblings in list(self._objects[kind].values()):
            yield from list(siblings.values())

    def get(self, kind: Kind, key: Key) -> Manifest | None:
        """The job, or the runtime, of this name."""
        return self._objects[kind][key].get(key.name) if key in self._objects[kind] else None

    def children(self, kind: Kind, key: Key) -> tuple[Manifest, ...]:
        return tuple(self._objects[kind][key].values()) if key in self._objects[kind] else ()

    def gone(self, key: Key) -> tuple[Manifest, ...]:
        return tuple(self._gone[key].values()) if key in self._gone else ()


def _is_within(key: Key, within: Key | str | None) -> bool:
    return within is None or within in (key, key.namespace)


def _newer(body: Manifest, former: Manifest) -> bool:
    """Whether `body` is a later version. Versions are numbers that grow, since Kubernetes 1.35 officially."""
    if body["metadata"]["uid"] != former["metadata"]["uid"]:
        return True
    return int(body["metadata"]["resourceVersion"]) > int(former["metadata"]["resourceVersion"])


def _without_version(body: Manifest) -> Manifest:
    return {**body, "metadata": {**body["metadata"], "resourceVersion": ""}}


METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
)


def _trim(kind: Kind, body: Manifest) -> Manifest:
    metadata = {name: body["metadata"][name] for name in METADATA if name in body["metadata"]}
    if kind is POD:
        index = body["metadata"].get("annotations", {}).get(INDEX_ANNOTATION)
        metadata["annotations"] = {INDEX_ANNOTATION: index} if index is not None else {}
        node = body.get("spec", {}).get("nodeName")
        return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": _pod_status(body)}
    if kind is BATCH_JOB:
        return {"metadata": metadata, **_chosen(body, ("suspend", "completions"), ("conditions", "startTime"))}
    if kind is WORKLOAD:
        owners = [{"name": owner.get("name")} for owner in body["metadata"].get("ownerReferences") or []]
        return {"metadata": {**metadata, "ownerReferences": owners}, **_chosen(body, (), ("conditions",))}
    return {"metadata": metadata, "spec": body.get("spec", {}), "status": body.get("status", {})}


def _chosen(body: Manifest, spec: tuple[str, ...], status: tuple[str, ...]) -> Manifest:
    return {
        part: {name: body[part][name] for name in names if name in body.get(part, {})}
        for part, names in (("spec", spec), ("status", status))
    }


def _pod_status(body: Manifest) -> Manifest:
    status = body.get("status", {})
    kept = {name: status[name] for name in ("phase", "reason", "message", "conditions") if name in status}
    for group in ("initContainerStatuses", "containerStatuses"):
        told = ("name", "state", "imageID")
        kept[group] = [{name: one[name] for name in told if name in one} for one in status.get(group) or []]
    return kept
