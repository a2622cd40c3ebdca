"""A FineTuneJob on a real cluster, as a test follows it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from finetune_api.status import TERMINAL, ConditionType, Status
from support.cluster.access import Access, Object

KIND = "finetunejobs.finetune.dev"
CHILDREN = ("jobs", "pods", "services", "configmaps", "secrets", "persistentvolumeclaims")
POLL_SECONDS = 0.5


class TimedOut(AssertionError):
    """What was waited for did not come; the message shows the job, its events and its pods' logs."""


@dataclass(frozen=True)
class LiveJob:
    """One job by its name; every question goes to the API server."""

    cluster: Access
    namespace: str
    name: str

    @property
    def selector(self) -> str:
        return f"finetune.dev/job={self.name}"

    def object(self) -> Object:
        found = self.cluster.get(KIND, self.name, self.namespace)
        assert found is not None, f"{KIND} {self.namespace}/{self.name} does not exist"
        return found

    def status(self) -> Status:
        return Status.model_validate(self.object().get("status") or {})

    def pods(self) -> list[Object]:
        return self.cluster.list("pods", self.namespace, self.selector)

    def wait(self, holds: Callable[[Status], bool], seconds: float, what: str) -> Status:
        """The first status for which `holds`; raises TimedOut with everything known of the job."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if holds(status):
                return status
            if time.monotonic() > deadline:
                raise TimedOut(f"{what} did not come within {seconds:.0f} s\n{self.describe()}")
            time.sleep(POLL_SECONDS)

    def wait_for_end(self, seconds: float) -> Status:
        return self.wait(lambda status: status.phase in TERMINAL, seconds, "the end")

    def describe(self) -> str:
        """Status, events and the end of every pod's log."""
        where = f"--namespace={self.namespace}"
        parts = [
            json.dumps(self.object().get("status"), indent=1),
            self.cluster.kubectl("get", "events", where, "--sort-by=.lastTimestamp"),
            self.cluster.kubectl("get", "pods", where, "--output=wide"),
            self.cluster.kubectl("logs", where, f"--selector={self.selector}", "--tail=30", "--prefix"),
        ]
        return "\n".join(parts)

    def delete(self) -> None:
        self.cluster.kubectl("delete", KIND, self.name, f"--namespace={self.namespace}", "--wait=true")

    def children(self) -> list[str]:
        """kind/name of everything in the namespace that belongs to the job, owned by it or by what it owns."""
        found = (item for kind in CHILDREN for item in self.cluster.list(kind, self.namespace, self.selector))
        return sorted(f"{item['kind']}/{item['metadata']['name']}" for item in found)

    @contextmanager
    def watched(self) -> Iterator[list[Status]]:
        """Collects every status that a watch shows until the block ends."""
        recorder = _Recorder(self)
        recorder.start()
        try:
            yield recorder.seen
        finally:
            recorder.stop()


@dataclass
class _Recorder:
    job: LiveJob
    seen: list[Status] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        cluster, job = self.job.cluster, self.job
        command = [str(cluster.program("kubectl")), f"--kubeconfig={cluster.kubeconfig}", "get", KIND, job.name]
        command += [f"--namespace={job.namespace}", "--watch", '--output=jsonpath={.status}{"\\n"}']
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip():
                self.seen.append(Status.model_validate_json(line))

    def stop(self) -> None:
        assert self.process is not None
        assert self.thread is not None
        self.process.terminate()
        self.process.wait(timeout=10)
        self.thread.join(timeout=10)


def condition(status: Status, type_: ConditionType) -> str | None:
    """True, False or Unknown; None where the status does not have the condition."""
    return next((item.status for item in status.conditions if item.type is type_), None)


def news_only(old: Status, new: Status) -> bool:
    """Whether `new` differs from `old` by a report alone, which waits for its time and is not in the write budget.

    A pod that has ended a moment before the others, when such a report is due, is told with it.
    """

    def rest(status: Status) -> dict[str, Any]:
        conditions = [item.model_copy(update={"message": ""}) for item in status.conditions]
        nodes = status.nodes.model_copy(update={"ready": 0}) if status.nodes else None
        quiet = {"progress": None, "metrics": {}, "checkpoint": None, "conditions": conditions, "nodes": nodes}
        return status.model_copy(update=quiet).to_dict()

    return rest(old) == rest(new)
