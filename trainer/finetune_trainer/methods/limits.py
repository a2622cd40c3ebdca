"""What each method cannot do, known before torch is imported."""

from __future__ import annotations

from pathlib import Path

from finetune_api.job import Task
from finetune_api.method import VIRTUAL_TOKENS, MethodType
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.freeze import chosen
from finetune_trainer.model_folder import ModelFolder

TYPE, MERGE = "spec.method.type", "spec.output.mergeAdapter"
READING = frozenset(
    {
        Task.TEXT_CLASSIFICATION,
        Task.TEXT_REGRESSION,
        Task.TOKEN_CLASSIFICATION,
        Task.QUESTION_ANSWERING,
        Task.SUMMARIZATION,
        Task.TRANSLATION,
        Task.TEXT_GENERATION,
        Task.PREFERENCE_OPTIMIZATION,
        Task.FILL_MASK,
    }
)
"""Tasks whose models read nothing but text: virtual tokens stand before a text's."""
SAYING_TOKENS = frozenset(
    {
        Task.SUMMARIZATION,
        Task.TRANSLATION,
        Task.TEXT_GENERATION,
        Task.PREFERENCE_OPTIMIZATION,
        Task.FILL_MASK,
        Task.IMAGE_TEXT_TO_TEXT,
    }
)
LEAST_TOKENS = 8
"""Positions that virtual tokens have to leave for a row's own."""


def gpus_of(config: RunConfig) -> int:
    """How many GPUs of this machine the run asks for and gets."""
    return min(config.resources.gpus_per_node, len(list(Path("/dev").glob("nvidia[0-9]*"))))


def check_method(config: RunConfig, gpus: int) -> None:
    """Raise ConfigError if the method cannot do this task here; `gpus` is how many are used."""
    kind = config.method.type
    if kind in VIRTUAL_TOKENS:
        _check_virtual_tokens(config)
    if kind is MethodType.FREEZE:
        _check_freeze(config)
    if kind is MethodType.QLORA:
        _check_four_bits(config, gpus)


def check_positions(config: RunConfig, model: ModelFolder) -> None:
    """Raise ConfigError if virtual tokens leave too few of the model's positions for the texts."""
    kind, own = config.method.type, config.method.virtual_tokens
    if not own or model.positions is None:
        return
    left, wanted = model.positions - own, config.training.max_length or LEAST_TOKENS
    if left < wanted:
        message = f"spec.method.{kind}.virtualTokens: {own} of the model's {model.positions} positions leave {left}"
        hint = f"the texts need {wanted}: use fewer virtual tokens, or a smaller spec.training.maxLength"
        raise ConfigError("TooLong", message, hint)


def _check_virtual_tokens(config: RunConfig) -> None:
    kind = config.method.type
    if config.task not in READING:
        message = f"{TYPE}: {kind} puts tokens before those of a text, and {config.task} does not read text alone"
        raise ConfigError("UnsupportedMethod", message, "use lora, ia3 or freeze")
    if config.output.merge_adapter:
        message = f"{MERGE}: virtual tokens cannot be merged into a model's weights"
        raise ConfigError("UnsupportedMethod", message, "leave it out, or use lora, dora or ia3")


def _check_freeze(config: RunConfig) -> None:
    freeze = config.method.freeze
    if freeze.layers is not None:
        chosen(freeze.layers)
    elif config.task in SAYING_TOKENS:
        message = f"spec.method.freeze.backbone: {config.task} has no head of its own, its model says tokens as it came"
        raise ConfigError("NoHead", message, "set spec.method.freeze.layers, for example 0-3, or use lora")


def _check_four_bits(config: RunConfig, gpus: int) -> None:
    if not gpus:
        message = f"{TYPE}: weights of four bits need a GPU with CUDA, and this run has none"
        raise ConfigError("UnsupportedMethod", message, "use lora, or ask for a GPU with spec.resources.gpusPerNode")
    if config.output.merge_adapter:
        message = f"{MERGE}: weights of four bits cannot take an adapter in without losing most of it"
        raise ConfigError("UnsupportedMethod", message, "leave it out, or use lora")
    if config.model.encoders is not None:
        message = f"{TYPE}: qlora takes one model, not several encoders"
        raise ConfigError("UnsupportedMethod", message, "use lora")
