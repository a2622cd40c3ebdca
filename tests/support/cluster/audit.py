"""The API server's audit log: who asked for what."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class AuditEvent:
    """One answered request; `resource` is plural, with the subresource after a slash where there is one."""

    time: str
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int

    @property
    def writes(self) -> bool:
        """Whether the request would change something."""
        return self.verb in WRITING_VERBS


def read(path: Path) -> list[AuditEvent]:
    """The requests that the API server has answered, oldest first."""
    with path.open() as lines:
        return list(parse(lines))


def parse(lines: Iterable[str]) -> Iterator[AuditEvent]:
    """The answered requests for objects among the log's lines."""
    for line in lines:
        # The last line may be half written.
        if not line.endswith("\n"):
            continue
        event = json.loads(line)
        if event["stage"] == "ResponseComplete" and "objectRef" in event:
            yield _event(event)


def _event(event: dict[str, Any]) -> AuditEvent:
    reference = event["objectRef"]
    parts = [reference.get("resource", ""), reference.get("subresource", "")]
    return AuditEvent(
        time=event["requestReceivedTimestamp"],
        user=event["user"]["username"],
        verb=event["verb"],
        resource="/".join(part for part in parts if part),
        namespace=reference.get("namespace", ""),
        name=reference.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
    )
