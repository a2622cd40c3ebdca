"""FineTuneJob: what a user asks for. Defaults stand here once; the CRD only tells them, `plan` applies them.

Sections are strict and frozen. A field with a default is optional in a manifest, and null means absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from finetune_api.base import Document, Rule, present
from finetune_api.names import API_VERSION, MAX_JOB_NAME, RESERVED_ENV

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
URI_PATTERN = r"^(hf|pkg|pvc|file|s3|gs|az|https)://[^\s]+$|^\./[^\s]*$"
VOLUME_PATTERN = r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]*)?$"
SOURCE_SCHEMES = (
    "hf://, pkg://, pvc://claim/path, s3://, gs://, az://, https://, file:///absolute/path, "
    "or ./path with `finetune run`"
)


def _as_text(value: Any) -> Any:
    """Quantities may be written as numbers, as everywhere in Kubernetes."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


INT_OR_STRING = {"x-kubernetes-int-or-string": True}
ObjectName = Annotated[str, StringConstraints(pattern=SUBDOMAIN_PATTERN, max_length=253)]
Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    WithJsonSchema({**INT_OR_STRING, "pattern": QUANTITY_PATTERN, "maxLength": 32}),
]
ProcessCount = Annotated[
    Annotated[int, Field(ge=1, le=64)] | Literal["auto"],
    WithJsonSchema(
        {
            **INT_OR_STRING,
            "maxLength": 4,
            "x-kubernetes-validations": [
                {
                    "rule": "type(self) == int ? self >= 1 && self <= 64 : self == 'auto'",
                    "message": "use a number from 1 to 64, or auto",
                }
            ],
        }
    ),
]
SourceUri = Annotated[
    str,
    StringConstraints(pattern=URI_PATTERN, max_length=1024),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": URI_PATTERN,
            "maxLength": 1024,
            "x-kubernetes-validations": [
                {"rule": "!self.startsWith('./')", "message": "./path works with `finetune run` only"}
            ],
        }
    ),
]
VolumeUri = Annotated[str, StringConstraints(pattern=VOLUME_PATTERN, max_length=1024)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Reference(Document):
    """An object in the job's namespace."""

    name: ObjectName = Field(description="Name of the object.")


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


class DataFormat(StrEnum):
    AUTO = "Auto"
    CSV = "Csv"
    JSON = "Json"
    JSON_LINES = "JsonLines"
    PARQUET = "Parquet"
    ARROW = "Arrow"
    TEXT = "Text"
    IMAGE_FOLDER = "ImageFolder"
    AUDIO_FOLDER = "AudioFolder"


class ProblemType(StrEnum):
    SINGLE_LABEL = "SingleLabel"
    MULTI_LABEL = "MultiLabel"


class MethodType(StrEnum):
    FULL = "full"
    LORA = "lora"


class Scheduler(StrEnum):
    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Precision(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class EvaluationStrategy(StrEnum):
    EPOCH = "Epoch"
    STEPS = "Steps"
    NEVER = "Never"


class Resume(StrEnum):
    AUTO = "Auto"
    NEVER = "Never"


class OnSpecChange(StrEnum):
    RERUN = "Rerun"
    IGNORE = "Ignore"


class Encoder(Document):
    """The pre-trained encoder of one modality."""

    uri: SourceUri = Field(description=f"Where the encoder lies: {SOURCE_SCHEMES}.")
    revision: Word | None = Field(None, description="Commit, tag or branch of a hub model.")


class Encoders(Document):
    """An encoder for each modality, whose outputs are joined."""

    text: Encoder | None = Field(None, description="Encoder of the text column.")
    image: Encoder | None = Field(None, description="Encoder of the image column.")
    audio: Encoder | None = Field(None, description="Encoder of the audio column.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            " + ".join(f"({present(name)} ? 1 : 0)" for name in ("text", "image", "audio")) + " >= 2",
            lambda encoders: len(encoders.named()) >= 2,
            "set at least two of text, image and audio",
        ),
    )

    def named(self) -> dict[str, Encoder]:
        """Modality to encoder, those that are set."""
        return {name: encoder for name in ("text", "image", "audio") if (encoder := getattr(self, name)) is not None}


class Model(Document):
    """The pre-trained model to start from."""

    uri: SourceUri | None = Field(None, description=f"Where the model lies: {SOURCE_SCHEMES}.")
    revision: Word | None = Field(None, description="Commit, tag or branch of a hub model.")
    encoders: Encoders | None = Field(None, description="Instead of uri, for multimodal-classification.")
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")
    secret_ref: Reference | None = Field(None, description="Secret whose keys (HF_TOKEN, AWS_…) reach the trainer.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{present('uri')} != {present('encoders')}",
            lambda model: (model.uri is None) != (model.encoders is None),
            "set exactly one of uri and encoders",
        ),
    )

    def uris(self) -> dict[str, str]:
        """Every URI by its field's path in a manifest."""
        if self.encoders is None:
            return {"spec.model.uri": str(self.uri)}
        return {f"spec.model.encoders.{name}.uri": encoder.uri for name, encoder in self.encoders.named().items()}


class Source(Document):
    """One file, one folder of images or sound, or one data set of the hub."""

    uri: SourceUri = Field(description=f"Where the rows lie: {SOURCE_SCHEMES}.")
    format: DataFormat = Field(DataFormat.AUTO, description="How to read it; Auto goes by a file's ending.")
    split: Word | None = Field(None, description="Split of a hub data set or a folder, `train` if absent.")
    weight: float = Field(1.0, gt=0, le=1000, description="How many times an epoch has each row; 0.5 is half of them.")
    revision: Word | None = Field(None, description="Commit, tag or branch of a hub data set.")
    secret_ref: Reference | None = Field(None, description="Secret whose keys (HF_TOKEN, AWS_…) reach the trainer.")


class HeldOut(Document):
    """Rows kept from training: a share of the training rows, or sources of their own."""

    fraction: float | None = Field(None, gt=0, lt=1, description="Share of the training rows to hold out.")
    stratify: bool = Field(True, description="Keep each label's share in the held-out rows.")
    sources: Annotated[list[Source], Field(min_length=1, max_length=32)] | None = Field(
        None, description="Sources to use instead of a share."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{present('fraction')} != {present('sources')}",
            lambda split: (split.fraction is None) != (split.sources is None),
            "set exactly one of fraction and sources",
        ),
    )


class Dataset(Document):
    """The labelled rows, how they are split, and which column plays which role."""

    train: Annotated[list[Source], Field(min_length=1, max_length=32)] = Field(description="Training rows.")
    validation: HeldOut = Field(HeldOut(fraction=0.1), description="Rows to evaluate on while training.")
    test: HeldOut = Field(HeldOut(fraction=0.1), description="Rows to evaluate on once, at the end.")
    columns: Annotated[dict[str, Word], Field(max_length=16)] = Field(
        {}, description="Role to column, for example `text: sentence`; a role that is absent has its own name."
    )
    problem_type: ProblemType = Field(
        ProblemType.SINGLE_LABEL, description="Whether a row of a classification has one label or several."
    )
    limit: int | None = Field(None, ge=1, description="Use the first rows only.")

    def sources(self) -> Iterator[tuple[str, Source]]:
        """Every source with its field's path in a manifest."""
        held_out = (("validation.sources", self.validation.sources), ("test.sources", self.test.sources))
        for field, group in (("train", self.train), *held_out):
            for index, source in enumerate(group or []):
                yield f"spec.dataset.{field}[{index}]", source


class Lora(Document):
    """Low-rank adapters, as in peft."""

    r: int = Field(16, ge=1, le=1024, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, le=8192, description="Scale of the adapters.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: Annotated[list[Word], Field(min_length=1, max_length=64)] = Field(
        ["all-linear"], description="Names of the modules that get an adapter."
    )


class Method(Document):
    """Which weights are trained."""

    type: MethodType = Field(MethodType.FULL, description="Train all weights, or low-rank adapters and the head.")
    lora: Lora = Field(Lora(), description="Used when type is lora.")


class Training(Document):
    """The optimization."""

    num_train_epochs: float = Field(3.0, gt=0, le=100_000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; wins over numTrainEpochs.")
    train_batch_size: int = Field(32, ge=1, le=1_000_000, description="Rows in one optimizer step, all processes.")
    micro_batch_size: int | None = Field(
        None, ge=1, le=1_000_000, description="Rows that a process computes at once; chosen by itself if absent."
    )
    learning_rate: float = Field(5e-5, gt=0, le=1, description="Peak learning rate.")
    lr_scheduler_type: Scheduler = Field(Scheduler.LINEAR, description="Shape of the learning rate after warm-up.")
    warmup_steps: int | None = Field(None, ge=0, description="Steps until the peak.")
    warmup_ratio: float | None = Field(None, ge=0, lt=1, description="Share of the steps until the peak.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="On weights, not on biases and norms.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    optimizer: Literal["adamw"] = Field("adamw", description="The optimizer.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target given to all labels.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Replaces the model's own dropout.")
    max_length: int | None = Field(None, ge=2, le=1_000_000, description="Tokens; the model's own limit if absent.")
    truncation: bool = Field(True, description="Cut and count longer texts; false refuses them.")
    beta: float = Field(0.1, gt=0, description="preference-optimization: how near to the reference model to stay.")
    precision: Precision = Field(
        Precision.AUTO, description="auto is bf16 on a GPU that computes in it, fp32 on a CPU."
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Seeds split, order, new weights and dropout.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!({present('warmupSteps')} && {present('warmupRatio')})",
            lambda training: training.warmup_steps is None or training.warmup_ratio is None,
            "set at most one of warmupSteps and warmupRatio",
        ),
    )


class Evaluation(Document):
    """When the validation rows are looked at."""

    strategy: EvaluationStrategy = Field(EvaluationStrategy.EPOCH, description="After each epoch, or by steps.")
    steps: int | None = Field(None, ge=1, description="Steps between two evaluations.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"(has(self.strategy) && self.strategy == 'Steps') == {present('steps')}",
            lambda evaluation: (evaluation.strategy == EvaluationStrategy.STEPS) == (evaluation.steps is not None),
            "set steps when, and only when, strategy is Steps",
        ),
    )


class CheckpointPolicy(Document):
    """How often the state is saved, where, and whether a restart goes on from it."""

    uri: VolumeUri | None = Field(None, description="Volume for checkpoints; the output's volume if absent.")
    every_seconds: int | None = Field(600, ge=1, description="Seconds between two saves.")
    every_steps: int | None = Field(None, ge=1, description="Steps between two saves, beside everySeconds.")
    keep_last: int = Field(2, ge=1, le=1000, description="How many checkpoints stay.")
    resume: Resume = Field(Resume.AUTO, description="Auto goes on from the newest valid checkpoint.")
    grace_seconds: int = Field(120, ge=1, le=86_400, description="Time to save after SIGTERM.")


class OutputPolicy(Document):
    """Where the model and the run's folder go."""

    uri: VolumeUri | None = Field(None, description="Volume and path; without it the files go with the pod.")
    exact: bool = Field(False, description="Use the path as it is, without <namespace>/<job>/<uid5> below it.")
    merge_adapter: bool = Field(False, description="Merge LoRA weights into the saved model.")


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


class RunPolicy(Document):
    """What happens after a fault, a change, and the end."""

    suspend: bool = Field(False, description="Save, stop and give the hardware back until it is false again.")
    backoff_limit: int = Field(3, ge=0, le=1000, description="Restarts after faults of the program.")
    infra_backoff_limit: int = Field(10, ge=0, le=1000, description="Restarts after faults of the infrastructure.")
    ttl_seconds_after_finished: int | None = Field(None, ge=0, description="Children go this long after the end.")
    node_lost_seconds: int = Field(120, ge=1, le=86_400, description="A pod on a silent node counts as lost then.")
    on_spec_change: OnSpecChange = Field(OnSpecChange.RERUN, description="What a changed spec does after the end.")


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
    resources: Resources = Resources()
    parallelism: Parallelism = Parallelism()
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


def uri_scheme(uri: str) -> str:
    """`pvc` of `pvc://claim/path`; empty for a relative path."""
    match = re.match(r"^([a-z][a-z0-9]*)://", uri)
    return match.group(1) if match else ""


def split_volume_uri(uri: str) -> tuple[str, str]:
    """(claim, path without slashes at its ends) of `pvc://claim/path`."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path.strip("/")
