"""Cleaning of images: those that cannot be read, and those of another mode than the RGB that models see."""

from __future__ import annotations

import io

from finetune_trainer.data.clean.step import Step
from finetune_trainer.data.media import Media, open_image
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import DataError

ROLE = "image"


def image_steps(drop_corrupt: bool) -> list[Step]:
    """The steps that are asked for. That images become RGB when they are opened is only counted here."""
    corrupt = [Step.dropping("dropCorrupt", _is_whole, ROLE)] if drop_corrupt else []
    return [*corrupt, Step("mode", lambda row: row, lambda row: not is_rgb(row.values[ROLE]), ROLE)]


def is_rgb(media: Media) -> bool:
    """Whether the pixels are red, green and blue as they are; of an image that cannot be read the task tells."""
    from PIL import Image

    try:
        with Image.open(media.path or io.BytesIO(media.read())) as image:
            return image.mode == "RGB"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True


def _is_whole(row: Row) -> bool:
    try:
        open_image(row.values[ROLE], row.place)
    except DataError:
        return False
    return True
