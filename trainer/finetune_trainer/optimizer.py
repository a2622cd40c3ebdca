"""AdamW over the trained weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from finetune_api.job import Training


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW in its fused form; biases and the weights of norms, which have one dimension, do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [item for item in trained if item.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [item for item in trained if item.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=training.learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply every gradient that there is by `factor`."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
