"""multimodal-classification: one label, or several, for any two or all of a text, an image and a clip.

Each has an encoder of its own; what they make of a row is joined by a small head (multimodal.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import augments, pretrained
from finetune_trainer.tasks.base import Example, Examples, Rows, TaskKind
from finetune_trainer.tasks.classes import Classification
from finetune_trainer.tasks.modalities import AUDIO, AUTO_CLASSES, ENCODERS, FUSION, open_modalities, saved_encoders
from finetune_trainer.tasks.sounds import Sounds

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from finetune_trainer.training.world import World


class MultimodalClassification(Classification):
    """`training.maxLength` is the most tokens of a text; clips and images are whole."""

    roles = Roles(
        {"text": columns.text, "image": columns.image, "audio": columns.audio, "label": columns.label},
        needed=(
            ("text", "image", "audio", "label"),
            ("text", "image", "label"),
            ("text", "audio", "label"),
            ("image", "audio", "label"),
        ),
        targets=("label",),
    )
    inputs = ("text", "image", "audio")
    auto_classes = AUTO_CLASSES
    parts = ()
    encoders = ENCODERS
    augments = {"text": augments.WORDS, "image": augments.PICTURES, "audio": augments.CLIPS}
    reworded_roles = ("text",)
    evaluation_rows = 16
    usage = """\
from finetune_trainer.multimodal import load_multimodal

classify = load_multimodal("model")
classify.predict([{"text": "A text.", "image": "picture.png", "audio": "clip.wav"}])"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.modalities = open_modalities(
            source.encoders, self._config_of, self.training.max_length, self.training.truncation, self.augment
        )

    def _config_of(self, source: ModelFolder) -> PreTrainedConfig:
        config, _ = pretrained.load_part(source, self.config)
        return config

    @property
    def pads(self) -> bool:
        return self.modalities.pads

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:
        """The labels. Raises ConfigError if the encoders are not those of the columns."""
        encoders = config.model.encoders.named() if config.model.encoders else {}
        for row in (some[0] for some in rows.values() if some):
            for name in encoders:
                if name not in row.values:
                    message = f"spec.model.encoders.{name}: {row.source} has no column for it"
                    raise ConfigError("ColumnNotFound", message, f"name one in spec.dataset.columns.{name}")
        for name in config.dataset.columns:
            if encoders and name in cls.encoders and name not in encoders:
                message = f"spec.dataset.columns.{name}: no encoder reads it"
                raise ConfigError("EncodersMissing", message, f"set spec.model.encoders.{name}, or leave it out")
        return super().check(rows, config)

    @classmethod
    def saved(cls, folder: Path, labels: Sequence[str], config: RunConfig) -> TaskKind:
        """The encoders' configurations and processors lie in folders of their own, all weights in one file."""
        return cls.load(ModelFolder(folder, FUSION, encoders=saved_encoders(folder)), labels, config)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        """Of a run's folder the whole model; otherwise the encoders, with a head that is new."""
        from finetune_trainer.multimodal import FusionModel

        if self.source.model_type == FUSION:
            return FusionModel.from_pretrained(str(self.source.path)), []
        return self._joined()

    def _joined(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModel

        from finetune_trainer.multimodal import FusionConfig, FusionModel

        configs = {name: self._config_of(source) for name, source in self.source.encoders.items()}
        settings: dict[str, Any] = {"encoders": {name: own.to_dict() for name, own in configs.items()}, **self.head()}
        if self.training.dropout is not None:
            settings["dropout"] = self.training.dropout
        model = FusionModel(FusionConfig(**settings, max_length=self.training.max_length))
        new = [name for name, _ in model.named_parameters() if not name.startswith("encoders.")]
        for name, source in self.source.encoders.items():
            model.encoders[name], missing = pretrained.load_weights(AutoModel, source, self.config, configs[name])
            new += [f"encoders.{name}.{parameter}" for parameter in missing]
        return model, new

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        sounds, joined = self.modalities.readers.get(AUDIO), model
        if isinstance(sounds, Sounds):
            encoder: Any = joined.get_submodule(f"encoders.{AUDIO}")
            sounds.prepare(encoder.config, [example[AUDIO] for example in examples[Side.TRAIN]])
        return examples

    def encode_inputs(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        return self.modalities.encode(rows)

    def size(self, example: Example) -> int:
        return self.modalities.size(example)

    def encode_words(self, row: Row) -> Example:
        """The image and the clip are not opened for it."""
        return {"text": self.modalities.readers["text"].encode([row])[0][0]}

    def augmented(self, example: Example, seed: int) -> Example:
        return self.modalities.augmented(example, seed)

    def collate_inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return self.modalities.collate(examples)

    def save(self, folder: Path) -> None:
        self.modalities.save(folder)
        for name, source in self.source.encoders.items():
            self._config_of(source).save_pretrained(str(folder / name))
