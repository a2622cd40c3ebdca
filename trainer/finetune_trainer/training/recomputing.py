"""Gradient checkpointing: activations are thrown away and computed again in the backward pass, for memory."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune_api.training import Use
from finetune_trainer.errors import ConfigError

SHORT = 0.5
"""Share of the device's memory from which on what is left for activations is short."""


def recomputes(wanted: Use, model: nn.Module, held: int, device: torch.device) -> bool:
    """Whether to recompute activations. Auto does where weights and optimizer, `held` bytes, take half of a GPU.

    Raises ConfigError if the model cannot, and has to.
    """
    if wanted is Use.NEVER:
        return False
    able = bool(_capable(model))
    if wanted is Use.ALWAYS and not able:
        message = "spec.training.gradientCheckpointing: the model's architecture cannot compute its activations again"
        raise ConfigError("NotSupported", message, "use Auto, and a smaller spec.training.microBatchSize")
    return able and (wanted is Use.ALWAYS or _is_short(held, device))


def recompute(model: nn.Module) -> None:
    """From now on. Random numbers are drawn again as they were, so the gradient is the same."""
    for part in _capable(model):
        part.activation_checkpointing_enable({"use_reentrant": False})


def _capable(model: nn.Module) -> list[PreTrainedModel]:
    """The outermost models in it that can do so: the model itself, what an adapter wraps, joined encoders.

    None of a model whose attention reads learned keys and values: where it computes again it takes none.
    """
    if getattr(model, "peft_type", None) == "PREFIX_TUNING":
        return []
    found: dict[str, PreTrainedModel] = {}
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing and not inside:
            found[name] = module
    return list(found.values())


def _is_short(held: int, device: torch.device) -> bool:
    return device.type == "cuda" and held > SHORT * torch.cuda.get_device_properties(device).total_memory
