"""The scale of fp16's loss: numbers of 16 bits would lose small gradients, so the loss is made larger for backward.

A step whose gradient overflows is left out, and the scale is halved; after 2000 steps without one it is doubled. The
position in the data and the schedule go on all the same. With any other precision nothing is scaled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

log = logging.getLogger(__name__)
SKIPPED, NORM = "skipped", "norm"


class LossScale:
    """The scale, and how many steps were left out. Both stay on the device until they are asked for."""

    def __init__(self, enabled: bool, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=enabled)
        self._skipped, self._norm = torch.zeros((), device=device), torch.zeros((), device=device)
        self._told = 0

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """What backward starts from."""
        value: torch.Tensor = self._scaler.scale(loss)
        return value

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients as they would be without a scale."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> torch.Tensor:
        """Have the optimizer take its step unless the gradient overflowed; returns the norm of the last one taken."""
        self._scaler.step(optimizer)
        self._scaler.update()
        if not self._scaler.is_enabled():
            return norm
        finite = norm.isfinite()
        self._skipped += ~finite
        self._norm = torch.where(finite, norm, self._norm)
        return self._norm

    def report(self) -> dict[str, float]:
        """For the log of metrics; reads back from the device."""
        if not self._scaler.is_enabled():
            return {}
        skipped, scale = int(self._skipped.item()), self._scaler.get_scale()
        if skipped > self._told:
            log.info("fp16: the gradients of %d steps overflowed; they were left out, the scale is %g", skipped, scale)
        self._told = skipped
        return {"loss_scale": scale, "skipped_steps": skipped}

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps; reads back from the device."""
        if not self._scaler.is_enabled():
            return {}
        return {**self._scaler.state_dict(), SKIPPED: self._skipped.item(), NORM: self._norm.item()}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on as in the checkpoint; one of a run without a scale has none."""
        if state:
            self._scaler.load_state_dict(dict(state))
            self._skipped.fill_(state[SKIPPED])
            self._norm.fill_(state[NORM])
            self._told = int(state[SKIPPED])
