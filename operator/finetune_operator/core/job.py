"""A FineTuneJob as the operator reads it, and which run its spec asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.policy import OnSpecChange, RunPolicy
from finetune_api.status import TERMINAL, Run, Status

Raw = Mapping[str, Any]

HASH_VERSION = "v1"
RUN_DEFINING = (
    "runtimeRef",
    "task",
    "model",
    "dataset",
    "method",
    "training",
    "evaluation",
    "checkpoint",
    "output",
    "resources",
    "parallelism",
    "trainer",
    "podTemplate",
)
"""Fields of the spec whose change asks for another run. Not runPolicy: it says how a run is handled, not what it is.

A failed job is often cured by another podTemplate or more memory, so these ask for a run, too.
A change of this list, or of how the hash is taken, needs another HASH_VERSION: see `current_run`.
"""


@dataclass(frozen=True)
class Job:
    """One FineTuneJob. `spec` is as stored; its defaults are applied in `plan`."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: Raw
    policy: RunPolicy
    status: Status
    version: str = ""
    """The resourceVersion that all of this was read at."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class CurrentRun:
    """The run to carry out. `attempt` is 0 until children of the run were made."""

    run: Run
    attempt: int

    @property
    def started(self) -> bool:
        return self.attempt > 0


def read_job(manifest: Raw) -> Job:
    """The job in an object of the API server."""
    metadata = manifest["metadata"]
    spec = without_nulls(manifest.get("spec", {}))
    return Job(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        spec=spec,
        policy=_read_policy(spec.get("runPolicy", {})),
        status=read_status(manifest.get("status") or {}),
        version=metadata.get("resourceVersion", ""),
    )


def read_status(raw: Raw) -> Status:
    """The stored status; what another version of the operator wrote and we do not know is left out."""
    try:
        return Status.model_validate(raw, extra="ignore")
    except ValidationError as error:
        unknown = {item["loc"][0] for item in error.errors()}
        return Status.model_validate({name: raw[name] for name in raw if name not in unknown}, extra="ignore")


def _read_policy(raw: Raw) -> RunPolicy:
    try:
        return RunPolicy.model_validate(raw, extra="ignore")
    except ValidationError:
        return RunPolicy(suspend=raw.get("suspend") is True)


def without_nulls(value: Any) -> Any:
    """`value` without null fields, at every depth: null means absent."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def spec_hash(spec: Raw) -> str:
    """Hash of the stored fields that define a run; the same for 3 and 3.0, for null and absent."""
    defining = {name: _canonical(without_nulls(spec[name])) for name in RUN_DEFINING if spec.get(name) is not None}
    text = json.dumps(defining, sort_keys=True, separators=(",", ":"))
    return f"{HASH_VERSION}:{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def spec_changed(job: Job) -> bool:
    """Whether the spec asks for another run than the one that the status tells of.

    A hash of another version cannot be compared, so an upgrade never starts a run.
    """
    run = job.status.run
    if run is None or run.generation == job.generation or not run.spec_hash.startswith(f"{HASH_VERSION}:"):
        return False
    return run.spec_hash != spec_hash(job.spec)


def current_run(job: Job, begun: Collection[tuple[int, int]] = ()) -> CurrentRun:
    """The run to carry out now: the one in the status, or a new one.

    `begun` are run and attempt of the child Jobs that there are. A restarted attempt has begun when its Job exists; the
    status tells of it with its next write.
    """
    former, attempt = job.status.run, job.status.attempt or 0
    if former is not None:
        while closed(job, former.index, attempt) and (former.index, attempt + 1) in begun:
            attempt += 1
    if former is None:
        return CurrentRun(_run(job, index=1), attempt=0)
    if attempt == 0:
        return CurrentRun(_run(job, former.index), attempt=0)
    over = job.status.phase in TERMINAL
    if over and spec_changed(job) and job.policy.on_spec_change is OnSpecChange.RERUN:
        return CurrentRun(_run(job, former.index + 1), attempt=0)
    if not former.spec_hash.startswith(f"{HASH_VERSION}:"):
        return CurrentRun(_run(job, former.index), attempt)
    return CurrentRun(former, attempt)


def closed(job: Job, run: int, attempt: int) -> bool:
    """Whether the attempt is over and counted."""
    return any((record.run, record.attempt) == (run, attempt) for record in job.status.history)


def _run(job: Job, index: int) -> Run:
    return Run(index=index, generation=job.generation, spec_hash=spec_hash(job.spec))
