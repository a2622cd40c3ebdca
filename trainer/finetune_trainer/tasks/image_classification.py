"""image-classification: one label, or several, for an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import pretrained
from finetune_trainer.tasks.base import Example
from finetune_trainer.tasks.classes import Classification
from finetune_trainer.tasks.images import Images

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class ImageClassification(Classification):
    """Convolutional networks and transformers on patches."""

    roles = Roles({"image": columns.image, "label": columns.label}, needed=(("image", "label"),), targets=("label",))
    inputs = ("image",)
    auto_classes = ("AutoModelForImageClassification",)
    parts = (Part.IMAGE_PROCESSOR,)
    usage = """\
from transformers import pipeline

classify = pipeline("image-classification", "model")
classify("picture.png")"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.images = Images(source)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForImageClassification

        config = pretrained.load_config(self.source, self.config, **self.head())
        return pretrained.load_weights(AutoModelForImageClassification, self.source, self.config, config)

    def encode_inputs(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        return self.images.encode(rows)

    def size(self, example: Example) -> int:
        return self.images.size(example)

    def collate_inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return self.images.collate(examples)

    def save(self, folder: Path) -> None:
        self.images.save(folder)
