"""Images that are cropped, flipped, and changed in colour and geometry, by torchvision's transforms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_api.augment import ImageAugment

if TYPE_CHECKING:
    from PIL import Image


def changed(image: Image.Image, settings: ImageAugment, seed: int) -> Image.Image:
    """An image of the same size, by the random numbers of `seed`."""
    from finetune_trainer.data.augment.drawing import drawing_from

    with drawing_from(seed):
        for transform in _transforms(settings, image):
            image = transform(image)
    return image


def _transforms(settings: ImageAugment, image: Image.Image) -> Iterator[Any]:
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    if settings.crop is not None:
        scale, ratio = _bounds(settings)
        yield v2.RandomResizedCrop((image.height, image.width), scale=scale, ratio=ratio)
    if settings.horizontal_flip:
        yield v2.RandomHorizontalFlip(settings.horizontal_flip)
    if settings.vertical_flip:
        yield v2.RandomVerticalFlip(settings.vertical_flip)
    if (chosen := settings.rand_augment) is not None:
        how = v2.InterpolationMode.BILINEAR
        yield v2.RandAugment(num_ops=chosen.operations, magnitude=chosen.magnitude, interpolation=how)


def _bounds(settings: ImageAugment) -> tuple[tuple[float, float], tuple[float, float]]:
    crop = settings.crop
    assert crop is not None
    return (crop.min_scale, crop.max_scale), (crop.min_ratio, crop.max_ratio)
