"""text-classification: one label, or several, for a text or for a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained, texts
from finetune_trainer.tasks.base import Example
from finetune_trainer.tasks.classes import Classification

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class TextClassification(Classification):
    """Encoders, and decoders that classify by their last token."""

    roles = Roles(
        {"text": columns.text, "textPair": columns.text, "label": columns.label},
        needed=(("text", "label"),),
        targets=("label",),
    )
    inputs = ("text", "textPair")
    auto_classes = ("AutoModelForSequenceClassification",)
    parts = (Part.TOKENIZER,)
    augments = {"text": augments.WORDS}
    reworded_roles = ("text", "textPair")
    usage = """\
from transformers import pipeline

classify = pipeline("text-classification", "model")
classify("A text.")"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        return texts.load_classifier(self.source, self.config, self.tokenizer, self.head())

    def encode_inputs(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        limit = texts.longest(self.source, self.tokenizer, self.config)
        encoded, cut = texts.encode(self.tokenizer, rows, limit, self.training.truncation)
        return list(encoded), cut

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def collate_inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return texts.pad(self.tokenizer, examples)

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)
