"""spec.training: the optimization."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import Document, Rule, present


class Scheduler(StrEnum):
    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Precision(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


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
