"""Two images in one, with both their labels: MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019).

The other image is drawn among all training rows, not among those of a micro-batch, so that it is the same however a
step is cut and shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_api.augment import ImageAugment
from finetune_trainer.data.augment.draws import generator

if TYPE_CHECKING:
    import torch

Box = tuple[float, float, float, float]
"""Top, bottom, left and right, as shares of height and width."""


@dataclass(frozen=True)
class Mix:
    """With which row and which seed of it, how much of the own image stays, and for CutMix what is pasted where."""

    partner: int
    seed: int
    own: float
    box: Box | None = None

    def share(self, height: int, width: int) -> float:
        """The own image's share of the label: that of its pixels, which are whole."""
        if self.box is None:
            return self.own
        top, bottom, left, right = self._pixels(self.box, height, width)
        return 1.0 - (bottom - top) * (right - left) / (height * width)

    def apply(self, image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Both of shape (channels, height, width)."""
        if self.box is None:
            return image.lerp(other, 1.0 - self.own)
        top, bottom, left, right = self._pixels(self.box, image.shape[1], image.shape[2])
        mixed = image.clone()
        mixed[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        return mixed

    @staticmethod
    def _pixels(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
        top, bottom, left, right = box
        return round(top * height), round(bottom * height), round(left * width), round(right * width)


def mixes(settings: ImageAugment | None) -> bool:
    return settings is not None and bool(settings.mixup or settings.cutmix)


def drawn(settings: ImageAugment, rows: int, seed: int) -> Mix:
    """With both MixUp and CutMix each of them gets half of the images."""
    draw = generator(seed, "mix")
    partner, other_seed, pastes = int(draw.integers(rows)), int(draw.integers(2**32)), draw.random() < 0.5
    if settings.mixup is None or (settings.cutmix is not None and pastes):
        own = float(draw.beta(settings.cutmix or 1.0, settings.cutmix or 1.0))
        return Mix(partner, other_seed, own, _box(own, *draw.random(2).tolist()))
    return Mix(partner, other_seed, float(draw.beta(settings.mixup, settings.mixup)))


def _box(own: float, y: float, x: float) -> Box:
    """Around a point, of the image's shape, cut at its edges."""
    half = math.sqrt(1.0 - own) / 2
    return max(y - half, 0.0), min(y + half, 1.0), max(x - half, 0.0), min(x + half, 1.0)
