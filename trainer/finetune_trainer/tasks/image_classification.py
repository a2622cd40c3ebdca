"""image-classification: one label, or several, for an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained
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
    augments = {"image": augments.PICTURES + augments.MIXES}
    usage = """\
from transformers import pipeline

classify = pipeline("image-classification", "model")
classify("picture.png")"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.images = Images(source, self.augment.image if self.augment else None)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForImageClassification

        config = pretrained.load_config(self.source, self.config, **self.head())
        return pretrained.load_weights(AutoModelForImageClassification, self.source, self.config, config)

    def encode_inputs(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        return self.images.encode(rows)

    def size(self, example: Example) -> int:
        return self.images.size(example)

    def collate_inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        import torch

        inputs = self.images.collate(examples)
        if "mix" in examples[0]:
            others = self.images.collate([example["partner"] for example in examples])["pixel_values"]
            pairs = zip(examples, inputs["pixel_values"], others, strict=True)
            inputs["pixel_values"] = torch.stack([example["mix"].apply(own, other) for example, own, other in pairs])
        return inputs

    def own_shares(self, examples: Sequence[Example], inputs: Mapping[str, torch.Tensor]) -> Sequence[float] | None:
        if "mix" not in examples[0]:
            return None
        height, width = inputs["pixel_values"].shape[-2:]
        return [example["mix"].share(height, width) for example in examples]

    def save(self, folder: Path) -> None:
        self.images.save(folder)
