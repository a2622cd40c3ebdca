"""Batch normalization, the same for any number of processes.

Its running averages depend on the order in which groups of rows went by. Every process normalizes whole groups by
their own mean and variance; here the groups' values are put together in the order of the groups after each step.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune_trainer.methods.frozen import is_held
from finetune_trainer.training.world import World

Statistics = list[tuple[torch.Tensor, torch.Tensor]]
"""Mean and variance of each layer."""
GROUP_ROWS = 32


class RunningStatistics:
    """The running averages of a model's batch norms that are not frozen; of no effect on a model that has none."""

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and not is_held(module)]
        self.layers = [layer for layer in layers if layer.track_running_stats and layer.momentum is not None]
        self._momenta = [float(layer.momentum or 0.0) for layer in self.layers]
        # With a momentum of 1 a layer's buffers hold the values of the last group alone.
        for layer in self.layers:
            layer.momentum = 1.0
        self._before: Statistics = []
        self._tracked: list[int] = []
        self._groups: dict[int, Statistics] = {}

    def begin_step(self) -> None:
        self._before = self._values()
        self._tracked = [int(_buffer(layer, "num_batches_tracked")) for layer in self.layers]
        self._groups = {}

    def group_done(self, number: int) -> None:
        """The group `number` of the step has just been through the model."""
        if self.layers:
            self._groups[number] = self._values()

    def end_step(self, world: World) -> None:
        """Move the averages by all groups of the step, whichever process had them."""
        if not self.layers:
            return
        groups = {number: values for part in world.all_gather(self._on_host()) for number, values in part.items()}
        for place, (layer, momentum) in enumerate(zip(self.layers, self._momenta, strict=True)):
            mean, variance = self._before[place]
            for number in sorted(groups):
                group_mean, group_variance = groups[number][place]
                mean = mean.lerp(group_mean.to(mean), momentum)
                variance = variance.lerp(group_variance.to(variance), momentum)
            _buffer(layer, "running_mean").copy_(mean)
            _buffer(layer, "running_var").copy_(variance)
            _buffer(layer, "num_batches_tracked").fill_(self._tracked[place] + len(groups))

    def _values(self) -> Statistics:
        return [
            (_buffer(layer, "running_mean").clone(), _buffer(layer, "running_var").clone()) for layer in self.layers
        ]

    def _on_host(self) -> dict[int, Statistics]:
        return {
            number: [(mean.cpu(), variance.cpu()) for mean, variance in values]
            for number, values in self._groups.items()
        }


def _buffer(layer: _BatchNorm, name: str) -> torch.Tensor:
    tensor: torch.Tensor = getattr(layer, name)
    return tensor
