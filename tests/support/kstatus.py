"""kstatus's generic algorithm, by which Flux and kpt wait for an object."""

from collections.abc import Mapping
from typing import Any

from finetune_api.status import ConditionType, Phase, Status


def kstatus(manifest: Mapping[str, Any]) -> str:
    """The answer that kstatus gives for an object."""
    if "deletionTimestamp" in manifest["metadata"]:
        return "Terminating"
    told = manifest.get("status", {})
    if told.get("observedGeneration", manifest["metadata"]["generation"]) != manifest["metadata"]["generation"]:
        return "InProgress"
    true = {item["type"]: item["status"] for item in told.get("conditions", [])}
    if true.get("Reconciling") == "True":
        return "InProgress"
    if true.get("Stalled") == "True":
        return "Failed"
    return "Current" if true.get("Ready", "True") == "True" else "InProgress"


def right_answer(status: Status) -> str:
    """What kstatus should say of a job whose status is about its present generation: DESIGN's table."""
    stalled = any(item.type is ConditionType.STALLED and item.status == "True" for item in status.conditions)
    if stalled or status.phase is Phase.FAILED:
        return "Failed"
    return "InProgress" if status.phase is Phase.PENDING else "Current"
