"""`troubles`: what the cluster's Events tell of pods that do not start, the newest word on each object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetune_operator.core.job import Raw
from finetune_operator.core.times import seconds


class TroubleKind(StrEnum):
    REFUSED = "refused"
    """The API server refuses the pods of a Job."""
    PLACE = "place"
    """The scheduler has no node for a pod."""
    MOUNT = "mount"
    """A volume of a pod cannot be attached or mounted."""
    IMAGE = "image"
    """An image of a pod cannot be pulled."""
    NODE = "node"
    """The pod's node cannot prepare it: network, devices."""


@dataclass(frozen=True)
class Trouble:
    """In the words of the component that met it; `object_name` is a Job's for REFUSED, else a pod's."""

    kind: TroubleKind
    reason: str
    message: str
    object_name: str


KINDS: Mapping[str, TroubleKind] = {
    "FailedCreate": TroubleKind.REFUSED,  # Job controller
    "FailedScheduling": TroubleKind.PLACE,  # scheduler
    "FailedAttachVolume": TroubleKind.MOUNT,  # attach-detach controller; the others are the kubelet's
    "FailedMount": TroubleKind.MOUNT,
    "FailedMapVolume": TroubleKind.MOUNT,
    "FailedMountOnFilesystemMismatch": TroubleKind.MOUNT,
    "ErrImageNeverPull": TroubleKind.IMAGE,
    "InspectFailed": TroubleKind.IMAGE,
    "FailedCreatePodSandBox": TroubleKind.NODE,
    "FailedPrepareDynamicResources": TroubleKind.NODE,
    "NetworkNotReady": TroubleKind.NODE,
}
PULL_FAILED = "Failed to pull image"
"""How the kubelet begins this one of the many Events with reason Failed."""
OVER: Mapping[str, frozenset[TroubleKind]] = {
    "SuccessfulCreate": frozenset({TroubleKind.REFUSED}),
    "Scheduled": frozenset({TroubleKind.PLACE}),
    "Pulled": frozenset({TroubleKind.MOUNT, TroubleKind.IMAGE, TroubleKind.NODE}),
}
"""Events after which a trouble is over, where somebody lists them, too: they are not warnings."""
PREFIXES = ("(combined from similar events): ", "Error creating: ")
TIMES = ("lastTimestamp", "eventTime", "firstTimestamp")


def troubles(events: Iterable[Raw]) -> tuple[Trouble, ...]:
    """The newest trouble of each object and kind that is not over, by object's name and kind. Events are core/v1."""
    newest: dict[tuple[str, TroubleKind], tuple[float, Trouble | None]] = {}
    for event in events:
        time, trouble = _time(event), _trouble(event)
        name = event.get("involvedObject", {}).get("name", "")
        kinds = {trouble.kind} if trouble else OVER.get(event.get("reason", ""), frozenset())
        for kind in kinds:
            former = newest.get((name, kind))
            if former is None or time > former[0] or (time == former[0] and trouble is not None):
                newest[name, kind] = (time, trouble)
    return tuple(trouble for _, (_, trouble) in sorted(newest.items(), key=lambda item: item[0]) if trouble)


def _trouble(event: Raw) -> Trouble | None:
    reason, message = event.get("reason", ""), event.get("message", "")
    kind = KINDS.get(reason)
    if reason == "Failed" and message.startswith(PULL_FAILED):
        kind = TroubleKind.IMAGE
    if kind is None:
        return None
    for prefix in PREFIXES:
        message = message.removeprefix(prefix)
    return Trouble(kind, reason, message, event.get("involvedObject", {}).get("name", ""))


def _time(event: Raw) -> float:
    """When it was last seen, in seconds since 1970: repeated Events are one object whose time moves."""
    repeated = (event.get("series") or {}).get("lastObservedTime")
    known = [repeated, *(event.get(name) for name in TIMES), event.get("metadata", {}).get("creationTimestamp")]
    return max((seconds(time) for time in known if time), default=0.0)
