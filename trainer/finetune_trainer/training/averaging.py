"""A moving average of the trained weights, which is evaluated and saved instead of the weights themselves.

The average follows faster at the start: after n steps its decay is at most (1 + n) / (10 + n), as in TensorFlow, so
that a short run is not the average of the weights that it began with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from finetune_trainer.training.state import trained_tensors


class WeightAverage:
    """The average of a model's trained weights and running statistics. Without a decay it does nothing."""

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self._live = {} if decay is None else trained_tensors(model)
        self.tensors = {name: tensor.clone() for name, tensor in self._live.items()}

    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if self.decay is None:
            return
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self._live.items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, share)
            else:
                self.tensors[name].copy_(tensor)

    def swap(self) -> None:
        """Exchange the model's weights and the average; done twice, every bit is where it was."""
        for name, tensor in self._live.items():
            held = tensor.clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(held)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """In this block the model has the average as its weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
