"""FineTuneJob: what a user asks for. Defaults stand here once; the CRD only tells them, `plan` applies them.

Sections are strict and frozen. A field with a default is optional in a manifest, and null means absent.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from finetune_api.base import Document
from finetune_api.dataset import Dataset
from finetune_api.evaluation import Evaluation
from finetune_api.fields import NAME_PATTERN, Reference
from finetune_api.method import Method
from finetune_api.model import Model
from finetune_api.names import API_VERSION, MAX_JOB_NAME
from finetune_api.placement import Parallelism, PodTemplate, Resources, Scheduling, TrainerOverride
from finetune_api.policy import CachePolicy, CheckpointPolicy, Elastic, OutputPolicy, RunPolicy
from finetune_api.tracking import Tracking
from finetune_api.training import Training


class Task(StrEnum):
    TEXT_CLASSIFICATION = "text-classification"
    TEXT_REGRESSION = "text-regression"
    TOKEN_CLASSIFICATION = "token-classification"
    QUESTION_ANSWERING = "question-answering"
    SUMMARIZATION = "summarization"
    TRANSLATION = "translation"
    TEXT_GENERATION = "text-generation"
    PREFERENCE_OPTIMIZATION = "preference-optimization"
    FILL_MASK = "fill-mask"
    IMAGE_CLASSIFICATION = "image-classification"
    AUDIO_CLASSIFICATION = "audio-classification"
    AUTOMATIC_SPEECH_RECOGNITION = "automatic-speech-recognition"
    IMAGE_TEXT_TO_TEXT = "image-text-to-text"
    IMAGE_TEXT_CONTRASTIVE = "image-text-contrastive"
    MULTIMODAL_CLASSIFICATION = "multimodal-classification"


class FineTuneJobSpec(Document):
    """One fine-tuning run."""

    runtime_ref: Reference | None = Field(None, description="FineTuneRuntime with a platform's defaults.")
    task: Task = Field(description="What the model learns to do.")
    model: Model
    dataset: Dataset
    method: Method = Method()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    output: OutputPolicy = OutputPolicy()
    cache: CachePolicy = CachePolicy()
    tracking: Tracking = Field([], description="Trackers that are told the run's numbers.")
    resources: Resources = Resources()
    parallelism: Parallelism = Parallelism()
    elastic: Elastic = Elastic()
    scheduling: Scheduling = Scheduling()
    run_policy: RunPolicy = RunPolicy()
    trainer: TrainerOverride = TrainerOverride()
    pod_template: PodTemplate = PodTemplate()


class Metadata(Document):
    """What we read of an object's metadata; the rest is the API server's business."""

    model_config = ConfigDict(extra="ignore")
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=MAX_JOB_NAME)]
    namespace: Annotated[str, StringConstraints(max_length=63)] = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class FineTuneJob(Document):
    """A FineTuneJob as a file holds it."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    metadata: Metadata
    spec: FineTuneJobSpec
    status: dict[str, Any] = Field({}, exclude=True)
