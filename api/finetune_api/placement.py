"""spec.resources, parallelism, scheduling, trainer and podTemplate: the hardware, and the pods on it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Document, Rule, present
from finetune_api.fields import SUBDOMAIN_PATTERN, ObjectName, ProcessCount, Quantity, Word
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

    strategy: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", description="ddp: a replica in each process; fsdp: a part. auto: ddp, or fsdp where no GPU holds one."
    )


class Gang(StrEnum):
    AUTO = "Auto"
    NONE = "None"
    KUEUE = "Kueue"
    VOLCANO = "Volcano"
    COSCHEDULING = "Coscheduling"


LabelKey = Annotated[
    str, StringConstraints(pattern=r"^([-a-z0-9.]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=316)
]


class Topology(Document):
    """How near to each other the nodes of a run are, by the label of nodes that names the place."""

    required: LabelKey | None = Field(None, description="All pods on nodes with the same value of this label.")
    preferred: LabelKey | None = Field(None, description="The same where it can be had.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!({present('required')} && {present('preferred')})",
            lambda topology: topology.required is None or topology.preferred is None,
            "give required or preferred, not both",
        ),
    )


class Scheduling(Document):
    """Who places the pods, when, and how near to each other."""

    queue_name: Annotated[str, StringConstraints(pattern=SUBDOMAIN_PATTERN, max_length=63)] | None = Field(
        None, description="Kueue's LocalQueue, or Volcano's Queue."
    )
    priority_class_name: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    gang: Gang = Field(
        Gang.AUTO,
        description="Who places all pods or none. Auto is Kueue with a queueName, else by podTemplate's schedulerName.",
    )
    topology: Topology = Topology()


class EnvVar(Document):
    """One environment variable of the training container."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    value: Annotated[str, StringConstraints(max_length=4096)] = ""
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.name in [" + ", ".join(f"'{name}'" for name in sorted(RESERVED_ENV)) + "])",
            lambda variable: variable.name not in RESERVED_ENV,
            "the operator sets this variable; choose another name",
        ),
    )


class Framework(StrEnum):
    TORCH = "torch"
    TENSORFLOW = "tensorflow"
    JAX = "jax"
    CUSTOM = "custom"


Arguments = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=256)]


class TrainerOverride(Document):
    """The training container: our trainer, or a program of your own where command, args or framework is given."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="Instead of the runtime's."
    )
    framework: Framework | None = Field(
        None, description="How the program finds its peers: variables of torch (the default of a program), and so on."
    )
    command: Arguments = Field([], description="Program to run instead of the image's own.")
    args: Arguments = Field([], description="Its arguments.")
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field([], description="Further environment variables.")

    @property
    def own_program(self) -> bool:
        """Whether something else than our trainer runs."""
        return bool(self.framework or self.command or self.args)


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
