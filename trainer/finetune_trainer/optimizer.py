"""AdamW over the trained weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from finetune_api.training import Training

EPSILON = 1e-6
"""As BERT was trained with. With torch's 1e-8 weights whose gradient is zero but for rounding (the bias of attention
keys) drift by that rounding, and another number of processes ends at other weights."""


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW in its fused form; biases and the weights of norms, which have one dimension, do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [item for item in trained if item.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [item for item in trained if item.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=training.learning_rate, eps=EPSILON, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply every gradient that there is by `factor`."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
