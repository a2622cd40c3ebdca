"""FineTuneRuntime: a platform team's defaults for the jobs that name it.

Its fields have the meaning of the job's; what the job says itself wins.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Document
from finetune_api.names import API_VERSION
from finetune_api.placement import EnvVar, Parallelism, PodTemplate, Resources
from finetune_api.policy import CheckpointPolicy, OutputPolicy
from finetune_api.training import Precision


class FineTuneRuntimeSpec(Document):
    """Defaults for jobs."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="Trainer image."
    )
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field([], description="Environment of the container.")
    precision: Precision | None = Field(None, description="Default of training.precision.")
    resources: Resources = Field(Resources(), description="Default of resources.")
    parallelism: Parallelism = Field(Parallelism(), description="Default of parallelism.")
    checkpoint: CheckpointPolicy = Field(CheckpointPolicy(), description="Default of checkpoint.")
    output: OutputPolicy = Field(OutputPolicy(), description="Default of output.")
    pod_template: PodTemplate = Field(PodTemplate(), description="Merged under the job's podTemplate.")


class RuntimeMetadata(Document):
    name: Annotated[str, StringConstraints(max_length=253)]


class FineTuneRuntime(Document):
    """A FineTuneRuntime as a file holds it."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["FineTuneRuntime"] = "FineTuneRuntime"
    metadata: RuntimeMetadata
    spec: FineTuneRuntimeSpec
