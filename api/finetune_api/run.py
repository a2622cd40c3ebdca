"""RunConfig: the one document that starts a training pod, written by the operator or by `finetune run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic.alias_generators import to_camel

from finetune_api.base import Document
from finetune_api.dataset import Dataset
from finetune_api.evaluation import Evaluation
from finetune_api.job import FineTuneJobSpec, Task
from finetune_api.method import Method
from finetune_api.model import Model
from finetune_api.placement import Parallelism, Resources
from finetune_api.policy import CheckpointPolicy, OutputPolicy, RunPolicy
from finetune_api.tracking import Tracking
from finetune_api.training import Training

LATER_FIELDS = (
    "cache_folder",
    "own_program",
    "hang_timeout_seconds",
    "training.padding_free",
    "training.compile",
    "training.kernels",
)
"""Fields, `section.field` below one, that a RunConfig did not have at first, and that older trainers refuse.

Whoever adds a field adds it here, and keeps its default.
"""


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
    own_program: bool = False
    """Whether another program than our trainer reads model and data: they are fetched for it, and not judged."""
    hang_timeout_seconds: int = RunPolicy().hang_timeout_seconds
    """Longest time without any sign of work; 0 never looks."""
    fold: Fold | None = None
    base_folder: str | None = None
    """Folder that `./path` URIs are relative to; only `finetune run` has one."""

    @classmethod
    def of(cls, spec: FineTuneJobSpec, **rest: Any) -> Self:
        """The run that `spec` asks for; `rest` are the fields that a spec does not have, or has otherwise."""
        sections = {name: getattr(spec, name) for name in cls.model_fields if name in FineTuneJobSpec.model_fields}
        elsewhere = {
            "hang_timeout_seconds": spec.run_policy.hang_timeout_seconds,
            "own_program": spec.trainer.own_program,
        }
        return cls(**(sections | elsewhere | rest))

    def for_any_trainer(self, later: Sequence[str] = LATER_FIELDS) -> dict[str, Any]:
        """The document for a trainer of an older version: it lacks nothing but the features that are asked for."""
        document = self.to_dict()
        for path in later:
            *sections, field = path.split(".")
            owner: Any = self
            part = document
            for section in sections:
                owner, part = getattr(owner, section), part[to_camel(section)]
            if getattr(owner, field) == type(owner).model_fields[field].default:
                part.pop(to_camel(field), None)
        return document
