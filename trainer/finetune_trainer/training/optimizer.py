"""What turns gradients into steps: the optimizer, which weights decay, and which learning rate each layer has.

Every optimizer here decouples weight decay from the gradient, but for sgd, where both are the same up to the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from finetune_api.training import Optimizer, Training
from finetune_trainer.training.layers import Layers

Groups = list[dict[str, Any]]
BETA2, BETA2_OF_LION = 0.999, 0.99
"""What the optimizers were published with."""


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer that the manifest names over the weights that are trained."""
    return MAKERS[training.optimizer](parameter_groups(model, training), training)


def parameter_groups(model: nn.Module, training: Training) -> Groups:
    """The trained weights by what they have in common: decay, and the share of the learning rate.

    Biases and the weights of norms, which have one dimension, do not decay.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    shares = layer_shares(model, trained, training.layerwise_lr_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for share in sorted(set(shares.values()), reverse=True):
        groups |= {(share, training.weight_decay): [], (share, 0.0): []}
    for name, parameter in trained.items():
        groups[shares[name], training.weight_decay if _decays(name, parameter) else 0.0].append(parameter)
    rate = training.learning_rate
    return [
        {"params": some, "weight_decay": decay, "share": share, "lr": rate * share}
        for (share, decay), some in groups.items()
        if some
    ]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Factors of (IA)³ begin as one, and are not drawn to zero."""
    return parameter.ndim > 1 and ".ia3_l." not in name


def layer_shares(model: nn.Module, names: Iterable[str], decay: float | None) -> dict[str, float]:
    """What part of the learning rate each weight has: all of it in the head, a factor less from layer to layer."""
    if decay is None:
        return dict.fromkeys(names, 1.0)
    layers = Layers(model)
    return {name: decay ** layers.depth(name) for name in names}


def _adamw(groups: Groups, training: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=_betas(training, BETA2), eps=training.adam_epsilon, fused=True)


def _adamw_8bit(groups: Groups, training: Training) -> torch.optim.Optimizer:
    """Both means in 8 bits, in blocks with a scale each; those of small weights stay in 32 bits."""
    optimizer: torch.optim.Optimizer = _bitsandbytes().AdamW8bit(
        groups, betas=_betas(training, BETA2), eps=training.adam_epsilon
    )
    return optimizer


def _adafactor(groups: Groups, training: Training) -> torch.optim.Optimizer:
    """The second mean as a row and a column. With the manifest's learning rate, not one of its own making."""
    from transformers.optimization import Adafactor

    optimizer: torch.optim.Optimizer = Adafactor(  # type: ignore[no-untyped-call]
        groups, lr=training.learning_rate, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return optimizer


def _sgd(groups: Groups, training: Training) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum)


def _lion(groups: Groups, training: Training) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = _bitsandbytes().Lion(groups, betas=_betas(training, BETA2_OF_LION))
    return optimizer


def _bitsandbytes() -> Any:
    """Imported only by a run that uses it: that takes seconds."""
    return import_module("bitsandbytes.optim")


def _betas(training: Training, second: float) -> tuple[float, float]:
    return training.adam_beta1, second if training.adam_beta2 is None else training.adam_beta2


MAKERS: Mapping[Optimizer, Callable[[Groups, Training], torch.optim.Optimizer]] = {
    Optimizer.ADAMW: _adamw,
    Optimizer.ADAMW_8BIT: _adamw_8bit,
    Optimizer.ADAFACTOR: _adafactor,
    Optimizer.SGD: _sgd,
    Optimizer.LION: _lion,
}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
