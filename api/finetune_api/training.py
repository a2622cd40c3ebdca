"""spec.training: the optimization."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from finetune_api.base import Document, Rule, present


class Scheduler(StrEnum):
    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"
    POLYNOMIAL = "polynomial"
    INVERSE_SQRT = "inverse_sqrt"


class Optimizer(StrEnum):
    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"
    ADAFACTOR = "adafactor"
    SGD = "sgd"
    LION = "lion"


class Use(StrEnum):
    """Whether to use what helps only in some places; Auto decides at the start of a run, which keeps to it."""

    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class Precision(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"


class GradualUnfreezing(Document):
    """The head is trained from the start; below it one layer more after each of these spans."""

    every_epochs: float | None = Field(None, gt=0, le=100_000, description="Epochs until the next layer joins.")
    every_steps: int | None = Field(None, ge=1, description="Steps until the next layer joins.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{present('everyEpochs')} != {present('everySteps')}",
            lambda unfreezing: (unfreezing.every_epochs is None) != (unfreezing.every_steps is None),
            "set exactly one of everyEpochs and everySteps",
        ),
    )


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
    lr_scheduler_power: float = Field(
        2.0, gt=0, le=10, description="polynomial: exponent of what is left; 1 is linear."
    )
    warmup_steps: int | None = Field(None, ge=0, description="Steps until the peak.")
    warmup_ratio: float | None = Field(None, ge=0, lt=1, description="Share of the steps until the peak.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="On weights, not on biases and norms.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    optimizer: Optimizer = Field(Optimizer.ADAMW, description="What turns gradients into steps.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="adamw, adamw_8bit, lion: decay of the mean gradient.")
    adam_beta2: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="adamw, adamw_8bit, lion: decay of the second mean; 0.999, with lion 0.99, if absent.",
    )
    adam_epsilon: float = Field(1e-6, gt=0, le=1, description="adamw, adamw_8bit: keeps a division from zero.")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: share of the last step in the next one.")
    layerwise_lr_decay: float | None = Field(
        None, gt=0, le=1, description="Factor of the learning rate from each layer to the one below it."
    )
    gradual_unfreezing: GradualUnfreezing | None = Field(None, description="Train the head first, then layer by layer.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Decay of a moving average of the weights, which is evaluated and saved."
    )
    gradient_checkpointing: Use = Field(
        Use.AUTO, description="Compute activations twice to save memory; Auto where it is short."
    )
    padding_free: Use = Field(
        Use.AUTO, description="Compute texts end to end, without padding; Auto where the architecture can."
    )
    compile: Use = Field(Use.AUTO, description="torch.compile; Auto on a GPU, where the run is long enough.")
    kernels: Use = Field(Use.AUTO, description="Liger's kernels; Auto on a GPU, where the architecture has some.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target given to all labels.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Replaces the model's own dropout.")
    max_length: int | None = Field(None, ge=2, le=1_000_000, description="Tokens; the model's own limit if absent.")
    truncation: bool = Field(True, description="Cut and count longer texts; false refuses them.")
    beta: float = Field(0.1, gt=0, description="preference-optimization: how near to the reference model to stay.")
    precision: Precision = Field(
        Precision.AUTO, description="auto is bf16 where the processor multiplies in it and it pays, else fp32."
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Seeds split, order, new weights and dropout.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!({present('warmupSteps')} && {present('warmupRatio')})",
            lambda training: training.warmup_steps is None or training.warmup_ratio is None,
            "set at most one of warmupSteps and warmupRatio",
        ),
    )
