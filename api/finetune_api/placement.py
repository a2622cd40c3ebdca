"""spec.resources, parallelism, trainer and podTemplate: the hardware, and the pods on it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Document, Rule
from finetune_api.fields import ProcessCount, Quantity, Word
from finetune_api.names import RESERVED_ENV


class Resources(Document):
    """The hardware of one run."""

    nodes: int = Field(1, ge=1, le=10_000, description="Training pods.")
    processes_per_node: ProcessCount = Field(
        "auto", description="Processes in a pod: a number, or auto for one a GPU, one without GPUs."
    )
    gpus_per_node: int = Field(0, ge=0, le=64, description="GPUs of a pod.")
    gpu_resource: Word = Field("nvidia.com/gpu", description="Name under which the cluster offers GPUs.")
    cpu: Quantity | None = Field(None, description="Processors of a pod.")
    memory: Quantity | None = Field(None, description="Memory of a pod.")
    shared_memory: Quantity | None = Field(None, description="Size of /dev/shm.")


class Parallelism(Document):
    """How the processes share the work."""

    strategy: Literal["auto", "ddp"] = Field("auto", description="auto is ddp: a replica of the model a process.")


class EnvVar(Document):
    """One environment variable of the training container."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    value: Annotated[str, StringConstraints(max_length=4096)] = ""
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.name in [" + ", ".join(f"'{name}'" for name in sorted(RESERVED_ENV)) + "])",
            lambda variable: variable.name not in RESERVED_ENV,
            "the operator sets this variable; choose another name",
        ),
    )


class TrainerOverride(Document):
    """The training container."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="Instead of the runtime's."
    )
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field([], description="Further environment variables.")


class TemplateMetadata(Document):
    labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = {}
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)] = {}


class PodTemplate(Document):
    """Merged over the pod that the operator makes; lists by their merge key."""

    metadata: TemplateMetadata = Field(TemplateMetadata(), description="Labels and annotations of the pods.")
    spec: dict[str, Any] = Field(
        {},
        description="Parts of a PodSpec. The security context cannot be loosened.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
