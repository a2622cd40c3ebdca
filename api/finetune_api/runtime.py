"""FineTuneRuntime: a platform team's defaults for the jobs that name it.

Its fields have the meaning of the job's; what the job says itself wins.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Document, Rule, present
from finetune_api.fields import NAME_PATTERN, ObjectName
from finetune_api.names import API_VERSION
from finetune_api.placement import EnvVar, Parallelism, PodTemplate, Resources, Scheduling
from finetune_api.policy import CachePolicy, CheckpointPolicy, OutputPolicy
from finetune_api.training import Precision

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^:]*$", max_length=512)]
PLACES = ("claimName", "hostPath", "configMapName", "secretName")


class RuntimeVolume(Document):
    """A volume that every pod mounts."""

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=56)] = Field(description="Its name.")
    mount_path: AbsolutePath = Field(description="Where the container sees it.")
    read_only: bool = Field(False, description="Whether pods may only read it.")
    claim_name: ObjectName | None = Field(None, description="PersistentVolumeClaim in the job's namespace.")
    host_path: AbsolutePath | None = Field(None, description="Folder of the node; see limits.hostPaths.")
    config_map_name: ObjectName | None = Field(None, description="ConfigMap in the job's namespace.")
    secret_name: ObjectName | None = Field(None, description="Secret in the job's namespace.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"[{', '.join(present(place) for place in PLACES)}].filter(one, one).size() == 1",
            lambda volume: (
                sum(
                    one is not None
                    for one in (volume.claim_name, volume.host_path, volume.config_map_name, volume.secret_name)
                )
                == 1
            ),
            "give exactly one of claimName, hostPath, configMapName and secretName",
        ),
    )


ImagePattern = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class Limits(Document):
    """What a job may ask for. Counts only in the operator's namespace, where those of `default` bind every job."""

    max_gpus: int | None = Field(None, ge=0, le=1_000_000, description="GPUs of a job, over all nodes.")
    max_nodes: int | None = Field(None, ge=1, le=10_000, description="Nodes of a job.")
    images: Annotated[list[ImagePattern], Field(max_length=64)] | None = Field(
        None, description="Images that jobs may name, * for any text; absent: any image."
    )
    service_account_names: Annotated[list[ObjectName], Field(max_length=64)] | None = Field(
        None, description="Service accounts that pods may have; absent: only default."
    )
    host_paths: Annotated[list[AbsolutePath], Field(max_length=64)] = Field(
        [], description="Folders of nodes that pods may mount, with what is below them; absent: none."
    )


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
    cache: CachePolicy = Field(CachePolicy(), description="Default of cache.")
    scheduling: Scheduling = Field(Scheduling(), description="Default of scheduling.")
    volumes: Annotated[list[RuntimeVolume], Field(max_length=32)] = Field([], description="Volumes of every pod.")
    limits: Limits = Limits()
    pod_template: PodTemplate = Field(PodTemplate(), description="Merged under the job's podTemplate.")


class RuntimeMetadata(Document):
    name: Annotated[str, StringConstraints(max_length=253)]


class FineTuneRuntime(Document):
    """A FineTuneRuntime as a file holds it."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["FineTuneRuntime"] = "FineTuneRuntime"
    metadata: RuntimeMetadata
    spec: FineTuneRuntimeSpec
