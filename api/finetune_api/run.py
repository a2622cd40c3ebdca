"""RunConfig: the one document that starts a training pod, written by the operator or by `finetune run`."""

from __future__ import annotations

from typing import Any, Literal, Self

from finetune_api.base import Document
from finetune_api.dataset import Dataset
from finetune_api.evaluation import Evaluation
from finetune_api.job import FineTuneJobSpec, Task
from finetune_api.method import Method
from finetune_api.model import Model
from finetune_api.placement import Parallelism, Resources
from finetune_api.policy import CheckpointPolicy, OutputPolicy
from finetune_api.tracking import Tracking
from finetune_api.training import Training


class JobIdentity(Document):
    """Whose run it is. `uid` fences the checkpoint store against a superseded attempt."""

    namespace: str
    name: str
    uid: str
    run: int = 1
    attempt: int = 1


class Fold(Document):
    """Which part of the training rows a run of a cross-validation tests on; `folder` is that of the whole run."""

    index: int
    of: int
    folder: str


class RunConfig(Document):
    """A resolved run: every default applied, every path known.

    `folder` is where the run's files go and `checkpoint_folder` where its checkpoints go, as paths that all
    nodes see; `volumes` maps each claim of a `pvc://` URI to the folder where it is mounted.
    """

    version: Literal["v1"] = "v1"
    job: JobIdentity
    task: Task
    model: Model
    dataset: Dataset
    method: Method
    training: Training
    evaluation: Evaluation
    checkpoint: CheckpointPolicy
    output: OutputPolicy
    tracking: Tracking = []
    resources: Resources
    parallelism: Parallelism
    folder: str
    checkpoint_folder: str
    output_uri: str | None = None
    checkpoint_uri: str | None = None
    volumes: dict[str, str] = {}
    cache_folder: str | None = None
    """Folder in which downloads are kept for all jobs that share it."""
    hang_timeout_seconds: int | None = None
    """Longest time without any sign of work; None never looks."""
    fold: Fold | None = None
    base_folder: str | None = None
    """Folder that `./path` URIs are relative to; only `finetune run` has one."""

    @classmethod
    def of(cls, spec: FineTuneJobSpec, **rest: Any) -> Self:
        """The run that `spec` asks for; `rest` are the fields that a spec does not have, or has otherwise."""
        sections = {name: getattr(spec, name) for name in cls.model_fields if name in FineTuneJobSpec.model_fields}
        return cls(**(sections | rest))
