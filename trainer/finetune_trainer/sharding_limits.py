"""What fsdp cannot do, known before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.job import Task
from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_api.training import Optimizer, Precision, Use
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder, architectures
from finetune_trainer.record import FSDP
from finetune_trainer.tasks.automatic_speech_recognition import BY_MOMENTS

FIELD = "spec.parallelism.strategy"
WHOLE: Mapping[Optimizer, str] = {
    Optimizer.ADAMW_8BIT: "keeps its means in blocks of whole weights",
    Optimizer.LION: "comes from a library that knows no weights in parts",
    Optimizer.ADAFACTOR: "keeps the means of whole rows and columns",
}
"""Optimizers that need a weight as a whole, and why."""
Limit = tuple[str, str]


def check_sharding(config: RunConfig, model: ModelFolder) -> None:
    """Raise ConfigError if the manifest asks for fsdp and for something that does not go together with it."""
    if config.parallelism.strategy != FSDP:
        return
    found = unsharded(config) or _writes_on(config, model)
    if found is not None:
        why, hint = found
        raise ConfigError("NotSupported", f"{FIELD}: fsdp {why}", f"{hint}, or use ddp")


def unsharded(config: RunConfig) -> Limit | None:
    """Why these settings do not go together with fsdp, and what would; None if they do."""
    training = config.training
    if config.task is Task.IMAGE_TEXT_CONTRASTIVE:
        return f"cannot train {config.task}, whose loss compares all rows of a step", "train another task"
    if config.method.type is MethodType.QLORA:
        return "cannot cut weights of four bits (spec.method.type: qlora)", "use lora"
    if (why := WHOLE.get(training.optimizer)) is not None:
        return f"cannot use spec.training.optimizer: {training.optimizer}, which {why}", "use adamw or sgd"
    if training.precision in (Precision.FP16, Precision.FP8):
        return f"cannot use spec.training.precision: {training.precision}", "use bf16 or fp32"
    if training.compile is Use.ALWAYS:
        return "cannot use spec.training.compile: Always", "leave it at Auto"
    return None


def _writes_on(config: RunConfig, model: ModelFolder) -> Limit | None:
    """A model of speech that writes may go on for longer in one process than in another."""
    if config.task is not Task.AUTOMATIC_SPEECH_RECOGNITION or model.model_type in architectures()[BY_MOMENTS]:
        return None
    return f"cannot evaluate a {model.model_type} model, which writes what it hears piece by piece", "use wav2vec2"
