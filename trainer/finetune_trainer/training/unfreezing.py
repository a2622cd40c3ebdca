"""Gradual unfreezing (ULMFiT, Howard and Ruder 2018): the head first, then one layer more after each span of steps.

Every layer still has a gradient; that of the frozen ones is dropped before it is clipped and used, so that they neither
move nor decay. The processes, which wait for every gradient, need not know of it, and its state is the step.
"""

from __future__ import annotations

import logging

from torch import nn

from finetune_trainer.training.layers import Layers

log = logging.getLogger(__name__)


class Unfreezing:
    """What is frozen at a step. `interval` is in steps; None if everything is trained from the start."""

    def __init__(self, model: nn.Module, interval: int | None, total: int) -> None:
        self.interval = interval
        self.groups = [] if interval is None else groups_of(model)
        if interval is not None and (total - 1) // interval + 1 < len(self.groups):
            last = (total - 1) // interval + 1
            log.info("the run ends before all layers are trained: it comes to %d of %d", last, len(self.groups))

    def drop_frozen(self, step: int) -> None:
        """Forget the gradients of what is still frozen in the step that follows `step` done ones."""
        if self.interval is None:
            return
        for group in self.groups[step // self.interval + 1 :]:
            for parameter in group:
                parameter.grad = None


def groups_of(model: nn.Module) -> list[list[nn.Parameter]]:
    """The trained weights by their depth, the head first; depths where nothing is trained are left out."""
    layers = Layers(model)
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(layers.depth(name), []).append(parameter)
    return [groups[depth] for depth in sorted(groups)]
