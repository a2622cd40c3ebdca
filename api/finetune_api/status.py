"""The status of a FineTuneJob: on a cluster in the object, on one machine in `status.json`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Document
from finetune_api.progress import (
    Checkpoint,
    Failure,
    FailureClass,
    Message,
    Metrics,
    Name,
    Output,
    Progress,
    Provenance,
)

MAX_HISTORY = 10
MAX_EXCLUDED_NODES = 16
Time = Annotated[str, Field(max_length=40)]


class Phase(StrEnum):
    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED})


class ConditionType(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SPEC_CHANGED = "SpecChanged"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Condition(Document):
    """As `metav1.Condition`; a list map keyed by type."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Name
    message: Message = ""
    last_transition_time: Time
    observed_generation: int | None = None


class Run(Document):
    """Which spec is being carried out."""

    index: int = Field(ge=1, description="1 for the first run, one more for each re-run.")
    generation: int = Field(description="metadata.generation that started it.")
    spec_hash: Name = Field(description="Hash of the fields that define a run.")


class Restarts(Document):
    total: int = Field(0, ge=0, description="All restarts of this run.")
    program: int = Field(0, ge=0, description="Restarts that count against backoffLimit.")
    infra: int = Field(0, ge=0, description="Restarts that count against infraBackoffLimit.")


class Nodes(Document):
    desired: int = Field(ge=0, description="Training pods asked for.")
    ready: int = Field(ge=0, description="Training pods that are ready.")


class AttemptRecord(Document):
    """One attempt that is over."""

    run: int
    attempt: int
    result: Name
    class_: FailureClass | None = Field(None, alias="class")
    reason: Name | None = None
    message: Message | None = None
    pod: Name | None = None
    node: Name | None = None
    exit_code: int | None = None
    nodes: int | None = None
    resumed_from_step: int | None = None
    lost_steps: int | None = None
    start_time: Time | None = None
    end_time: Time | None = None


class Usage(Document):
    """What a run has taken so far; counted when an attempt ends, not while it goes on."""

    running_seconds: int = Field(0, ge=0, description="Time in phase Running, over all attempts.")
    queued_seconds: int = Field(0, ge=0, description="Time in phase Queued.")
    gpu_seconds: int = Field(0, ge=0, description="GPUs times running seconds.")
    lost_gpu_seconds: int = Field(0, ge=0, description="Those of them that no checkpoint kept.")
    lost_steps: int = Field(0, ge=0, description="Optimizer steps that were done again or lost.")


class Status(Document):
    """Everything we know of a job."""

    observed_generation: int | None = None
    phase: Phase | None = None
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    run: Run | None = None
    attempt: int | None = Field(None, ge=0, description="Attempts of this run so far.")
    restarts: Restarts | None = None
    start_time: Time | None = None
    completion_time: Time | None = None
    nodes: Nodes | None = None
    progress: Progress | None = None
    metrics: Metrics = Field({}, description="Latest metrics by name, such as test_accuracy.")
    checkpoint: Checkpoint | None = None
    failure: Failure | None = None
    history: Annotated[list[AttemptRecord], Field(max_length=MAX_HISTORY)] = Field(
        [], description="Attempts that are over, the newest last."
    )
    output: Output | None = None
    usage: Usage | None = None
    excluded_nodes: Annotated[list[Name], Field(max_length=MAX_EXCLUDED_NODES)] | None = Field(
        None, description="Nodes that the next attempt must not use."
    )
    provenance: Provenance | None = None
