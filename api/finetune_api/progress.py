"""What the trainer says while it runs (`TrainerStatus`, `Progress`) and when it ends (`Outcome`, `ExitCode`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from finetune_api.base import Document

MAX_NAME = 256
MAX_MESSAGE = 2048
MAX_URI = 1024
MAX_LOG_TAIL = 8192
MAX_METRICS = 32
MAX_METRIC_NAME = 64
TERMINATION_BYTES = 4096
"""What the kubelet keeps of a termination message."""

Name = Annotated[str, Field(max_length=MAX_NAME)]
Message = Annotated[str, Field(max_length=MAX_MESSAGE)]
Uri = Annotated[str, Field(max_length=MAX_URI)]
Metrics = Annotated[dict[Annotated[str, Field(max_length=MAX_METRIC_NAME)], float], Field(max_length=MAX_METRICS)]


class ExitCode(IntEnum):
    """What the trainer's exit code means, after sysexits.h where a code exists there."""

    DONE = 0
    DATA_ERROR = 65
    UNAVAILABLE = 69
    CODE_ERROR = 70
    OUT_OF_MEMORY = 71
    STORAGE_FULL = 73
    PREEMPTED = 75
    EVALUATION_GATE_FAILED = 76
    AUTH_ERROR = 77
    CONFIG_ERROR = 78
    KILLED = 137
    TERMINATED = 143


class FailureClass(StrEnum):
    """Why an attempt ended before it was done; each class has one budget."""

    CONFIG_ERROR = "ConfigError"
    DATA_ERROR = "DataError"
    EVALUATION_GATE_FAILED = "EvaluationGateFailed"
    AUTH_ERROR = "AuthError"
    STORAGE_FULL = "StorageFull"
    OUT_OF_MEMORY_GPU = "OutOfMemoryGPU"
    OUT_OF_MEMORY_HOST = "OutOfMemoryHost"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    UNAVAILABLE = "Unavailable"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    POD_DELETED = "PodDeleted"
    HARDWARE_ERROR = "HardwareError"
    UNSCHEDULABLE = "Unschedulable"
    CHILD_REFUSED = "ChildRefused"
    IMAGE_PULL = "ImagePull"
    COLLECTIVE_TIMEOUT = "CollectiveTimeout"
    HANG = "Hang"
    CODE_ERROR = "CodeError"


class Budget(StrEnum):
    """Which limit a failure counts against; FINAL is never retried."""

    FINAL = "Final"
    PROGRAM = "Program"
    INFRASTRUCTURE = "Infrastructure"


BUDGETS: Mapping[FailureClass, Budget] = {
    FailureClass.CONFIG_ERROR: Budget.FINAL,
    FailureClass.DATA_ERROR: Budget.FINAL,
    FailureClass.EVALUATION_GATE_FAILED: Budget.FINAL,
    FailureClass.AUTH_ERROR: Budget.FINAL,
    FailureClass.STORAGE_FULL: Budget.FINAL,
    FailureClass.DEADLINE_EXCEEDED: Budget.FINAL,
    FailureClass.OUT_OF_MEMORY_GPU: Budget.FINAL,
    FailureClass.OUT_OF_MEMORY_HOST: Budget.FINAL,
    FailureClass.IMAGE_PULL: Budget.FINAL,
    FailureClass.UNAVAILABLE: Budget.INFRASTRUCTURE,
    FailureClass.PREEMPTED: Budget.INFRASTRUCTURE,
    FailureClass.EVICTED: Budget.INFRASTRUCTURE,
    FailureClass.NODE_LOST: Budget.INFRASTRUCTURE,
    FailureClass.POD_DELETED: Budget.INFRASTRUCTURE,
    FailureClass.HARDWARE_ERROR: Budget.INFRASTRUCTURE,
    FailureClass.UNSCHEDULABLE: Budget.INFRASTRUCTURE,
    FailureClass.CHILD_REFUSED: Budget.INFRASTRUCTURE,
    FailureClass.COLLECTIVE_TIMEOUT: Budget.PROGRAM,
    FailureClass.HANG: Budget.PROGRAM,
    FailureClass.CODE_ERROR: Budget.PROGRAM,
}

CLASS_OF_EXIT_CODE: Mapping[int, FailureClass] = {
    ExitCode.DATA_ERROR: FailureClass.DATA_ERROR,
    ExitCode.UNAVAILABLE: FailureClass.UNAVAILABLE,
    ExitCode.CODE_ERROR: FailureClass.CODE_ERROR,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY_GPU,
    ExitCode.STORAGE_FULL: FailureClass.STORAGE_FULL,
    ExitCode.PREEMPTED: FailureClass.PREEMPTED,
    ExitCode.EVALUATION_GATE_FAILED: FailureClass.EVALUATION_GATE_FAILED,
    ExitCode.AUTH_ERROR: FailureClass.AUTH_ERROR,
    ExitCode.CONFIG_ERROR: FailureClass.CONFIG_ERROR,
    ExitCode.KILLED: FailureClass.OUT_OF_MEMORY_HOST,
    ExitCode.TERMINATED: FailureClass.PREEMPTED,
}
"""Codes that are not here are CodeError."""


def failure_class(exit_code: int) -> FailureClass:
    """The class of a container that ended with `exit_code` and left no Outcome."""
    return CLASS_OF_EXIT_CODE.get(exit_code, FailureClass.CODE_ERROR)


class Failure(Document):
    """Why it failed, and what to do about it."""

    class_: FailureClass = Field(alias="class", description="What kind of fault it was.")
    reason: Name = Field(description="The fault in one CamelCase word.")
    message: Message = Field(description="What was wrong: names the field, the row or the object.")
    hint: Message | None = Field(None, description="What would work.")
    rank: int | None = Field(None, description="The rank that failed first.")
    pod: Name | None = Field(None, description="The pod that failed first.")
    node: Name | None = Field(None, description="The node it ran on.")
    exit_code: int | None = Field(None, description="Exit code of the container.")
    signal: Annotated[str, Field(max_length=16)] | None = Field(None, description="Signal that ended it.")
    log_tail: Annotated[str, Field(max_length=MAX_LOG_TAIL)] | None = Field(None, description="Last lines of its log.")


class Progress(Document):
    """How far a run is."""

    percentage: int | None = Field(None, ge=0, le=100, description="Share of the optimizer steps that are done.")
    step: int | None = Field(None, ge=0, description="Optimizer steps done.")
    total_steps: int | None = Field(None, ge=0, description="Optimizer steps in the whole run.")
    epoch: str | None = Field(None, max_length=16, description="Passes over the training split, two decimals.")
    loss: str | None = Field(None, max_length=16, description="Training loss, four significant digits.")
    tokens_per_second: int | None = Field(None, ge=0, description="Tokens trained on per second, over all processes.")
    eta_seconds: int | None = Field(None, ge=0, description="Estimated seconds to the end.")
    last_updated_time: Annotated[str, Field(max_length=40)] | None = Field(None, description="When it was reported.")


class Checkpoint(Document):
    """The newest complete checkpoint, and where this attempt began."""

    step: int | None = Field(None, ge=0, description="Step of the newest complete checkpoint.")
    uri: Uri | None = Field(None, description="Where it lies.")
    time: Annotated[str, Field(max_length=40)] | None = Field(None, description="When it was published.")
    resumed_from_step: int | None = Field(None, ge=0, description="Step at which this attempt resumed; absent if new.")


class Output(Document):
    """Where the fine-tuned model lies."""

    uri: Uri | None = Field(None, description="Folder of the run.")
    digest: Name | None = Field(None, description="Hash of the model's files.")
    pushed_uri: Uri | None = Field(None, description="Where the model was pushed to, by digest or revision.")
    pushed_digest: Name | None = Field(None, description="Digest or revision that the place gave it.")


class Provenance(Document):
    """What a run was made from: enough to say later what a model is."""

    image: Uri | None = Field(None, description="Image of the pods.")
    image_digest: Uri | None = Field(None, description="The same by digest, as the node pulled it.")
    runtimes: Message | None = Field(None, description="FineTuneRuntimes and the hash of each.")
    trainer_version: Name | None = Field(None, description="Version of the trainer.")
    model_revision: Name | None = Field(None, description="Commit or digest of the model that training began from.")
    data_digest: Name | None = Field(None, description="Hash of the data set's rows.")


class Result(StrEnum):
    SUCCEEDED = "Succeeded"
    PREEMPTED = "Preempted"
    FAILED = "Failed"


class Outcome(Document):
    """The last word of a training pod: its termination message, and `outcome.json` in the run's folder."""

    outcome: Result
    failure: Failure | None = None
    metrics: Metrics = {}
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    output: Output | None = None
    provenance: Provenance | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the model is there: the run succeeded, or all that failed is its gate."""
        gate_failed = self.failure is not None and self.failure.class_ is FailureClass.EVALUATION_GATE_FAILED
        return self.outcome is Result.SUCCEEDED or gate_failed

    def termination_message(self) -> str:
        """JSON of at most 4,096 bytes; cut are the log's tail first, then hint, message, and metrics."""
        outcome = self
        for field in ("log_tail", "hint", "message"):
            excess = len(_json(outcome).encode()) - TERMINATION_BYTES
            if excess > 0 and outcome.failure is not None:
                outcome = outcome.model_copy(update={"failure": _shorten(outcome.failure, field, excess)})
        while outcome.metrics and len(_json(outcome).encode()) > TERMINATION_BYTES:
            outcome = outcome.model_copy(update={"metrics": dict(list(outcome.metrics.items())[:-1])})
        return _json(outcome)


def _json(document: Document) -> str:
    return document.model_dump_json(by_alias=True, exclude_none=True)


def _shorten(failure: Failure, field: str, excess: int) -> Failure:
    """`failure` with the start of `field` cut away until its JSON is `excess` bytes shorter, or the field empty."""
    most = len(_json(failure).encode()) - excess
    while (text := getattr(failure, field)) and len(_json(failure).encode()) > most:
        failure = failure.model_copy(update={field: text[max(1, len(text) // 16) :]})
    return failure


class ReportedMetric(Document):
    model_config = ConfigDict(extra="ignore")
    name: str
    value: str


class TrainerStatus(Document):
    """Body of a progress report, as Kubeflow Trainer defined it and as transformers' own callback sends it."""

    model_config = ConfigDict(extra="ignore")
    progress_percentage: int | None = None
    estimated_remaining_seconds: int | None = None
    metrics: list[ReportedMetric] = []
    last_updated_time: str | None = None

    def numbers(self) -> dict[str, float]:
        """The metrics that are finite numbers."""
        parsed = ((metric.name, _finite(metric.value)) for metric in self.metrics)
        return {name: value for name, value in parsed if value is not None}

    def progress(self) -> Progress:
        """The report in the words of our status."""
        numbers = self.numbers()
        return Progress(
            percentage=_clamp(self.progress_percentage, 100),
            step=_whole(numbers.get("step", numbers.get("current_step"))),
            total_steps=_whole(numbers.get("total_steps")),
            epoch=_format(numbers.get("epoch"), ".2f"),
            loss=_format(numbers.get("loss"), ".4g"),
            tokens_per_second=_whole(numbers.get("tokens_per_second")),
            eta_seconds=_clamp(self.estimated_remaining_seconds, None),
            last_updated_time=self.last_updated_time[:40] if self.last_updated_time else None,
        )

    def checkpoint(self) -> Checkpoint:
        """What the report says of checkpoints."""
        numbers = self.numbers()
        return Checkpoint(
            step=_whole(numbers.get("checkpoint_step")),
            resumed_from_step=_whole(numbers.get("resumed_from_step")),
        )


class ProgressReport(Document):
    """The whole body that is sent to the operator."""

    model_config = ConfigDict(extra="ignore")
    trainer_status: TrainerStatus


def report(progress: Progress, numbers: Mapping[str, float]) -> dict[str, Any]:
    """The JSON body that tells `progress` and further `numbers` to the operator."""
    values: dict[str, object] = {"step": progress.step, "total_steps": progress.total_steps, "epoch": progress.epoch}
    values |= {"loss": progress.loss, "tokens_per_second": progress.tokens_per_second} | dict(numbers)
    metrics = [ReportedMetric(name=name, value=str(value)) for name, value in values.items() if value is not None]
    status = TrainerStatus(
        progress_percentage=progress.percentage,
        estimated_remaining_seconds=progress.eta_seconds,
        metrics=metrics,
        last_updated_time=progress.last_updated_time,
    )
    return ProgressReport(trainer_status=status).to_dict()


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else max(0, int(value))


def _clamp(value: int | None, most: int | None) -> int | None:
    if value is None:
        return None
    return max(0, value) if most is None else min(most, max(0, value))


def _format(value: float | None, spec: str) -> str | None:
    return None if value is None else format(value, spec)
