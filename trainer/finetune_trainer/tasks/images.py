"""Images as pixels: what all tasks share whose model sees them.

An image is decoded once when rows are encoded, so that one that cannot be read is told of by its row before training
starts, and again for every batch that it is in: an image as a model takes it needs half a megabyte, so the pixels of
a whole data set do not fit in memory, and those of one batch always do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.augment import ImageAugment
from finetune_trainer.data.augment import pictures
from finetune_trainer.data.media import open_image
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import pretrained
from finetune_trainer.tasks.base import CHANGED, Example

if TYPE_CHECKING:
    import torch
    from PIL import Image


class Images:
    """The image processor of a model's folder, and how images that are learned from are changed before it."""

    def __init__(self, source: ModelFolder, augment: ImageAugment | None = None) -> None:
        self.processor = pretrained.load_image_processor(source)
        self.augment = augment

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """The image of each row with the row's place; none is cut. Raises DataError for one that cannot be read."""
        for row in rows:
            open_image(row.values["image"], row.place)
        return [{"image": row.values["image"], "place": row.place} for row in rows], 0

    def size(self, example: Example) -> int:  # noqa: ARG002
        """Images are all made of one size."""
        return 1

    def augmented(self, example: Example, seed: int) -> Example:
        return {**example, CHANGED: seed}

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`pixel_values` of shape (rows, channels, height, width), whatever the sizes and modes of the images are."""
        opened = [opened_image(example, self.augment) for example in examples]
        prepared: Any = self.processor(images=opened, return_tensors="pt")
        return {"pixel_values": prepared["pixel_values"]}

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(str(folder))


def opened_image(example: Example, augment: ImageAugment | None) -> Image.Image:
    """The image of an example, changed if the example is to be."""
    image = open_image(example["image"], example["place"])
    return image if augment is None or CHANGED not in example else pictures.changed(image, augment, example[CHANGED])
