"""audio-classification: one label, or several, for a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained
from finetune_trainer.tasks.base import Example, Examples
from finetune_trainer.tasks.classes import Classification
from finetune_trainer.tasks.sounds import Sounds

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from finetune_trainer.training.world import World


class AudioClassification(Classification):
    """Models of waveforms, and models of features of a fixed length."""

    roles = Roles({"audio": columns.audio, "label": columns.label}, needed=(("audio", "label"),), targets=("label",))
    inputs = ("audio",)
    auto_classes = ("AutoModelForAudioClassification",)
    parts = (Part.FEATURE_EXTRACTOR,)
    augments = {"audio": augments.CLIPS}
    evaluation_rows = 16
    cpu_rows = 2  # a clip of seconds is enough for the matrix products
    usage = """\
import soundfile
from transformers import pipeline

classify = pipeline("audio-classification", "model")
samples, rate = soundfile.read("clip.wav", dtype="float32")
classify({"raw": samples, "sampling_rate": rate})"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        model_config = pretrained.load_config(source, config)
        augment = self.augment.audio if self.augment else None
        self.sounds = Sounds(source, model_config, self.training.max_length, self.training.truncation, augment)

    @property
    def pads(self) -> bool:
        return self.sounds.pads

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForAudioClassification

        config = pretrained.load_config(self.source, self.config, **self.head())
        return pretrained.load_weights(AutoModelForAudioClassification, self.source, self.config, config)

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        config: Any = model.config
        self.sounds.prepare(config, examples[Side.TRAIN])
        return examples

    def encode_inputs(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        return self.sounds.encode(rows)

    def size(self, example: Example) -> int:
        return self.sounds.size(example)

    def augmented(self, example: Example, seed: int) -> Example:
        return self.sounds.augmented(example, seed)

    def collate_inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return self.sounds.collate(examples)

    def save(self, folder: Path) -> None:
        self.sounds.save(folder)
