"""Several pre-trained encoders joined into one classifier, and `load_multimodal`, which loads a saved one.

    classify = load_multimodal("model")
    classify.predict([{"text": "A text.", "image": "picture.png"}])

The folder needs nothing else: `config.json` and `model.safetensors` are the whole model, and a folder for each
modality has its encoder's configuration and tokenizer or processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune_trainer.data import columns
from finetune_trainer.data.columns import Kind, Where
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sampler import micro_batches
from finetune_trainer.errors import ConfigError, nearest
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks.classes import described
from finetune_trainer.tasks.modalities import FUSION, Modalities, open_modalities, saved_encoders

KINDS: Mapping[str, Kind] = {"text": columns.text, "image": columns.image, "audio": columns.audio}
ROWS = 32
"""Rows that `predict` computes at once."""


class FusionConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """`encoders` has the configuration of each modality's encoder, `width` the values that each is reduced to.

    `max_length` is the most tokens of a text, `dropout` that of the head.
    """

    model_type = FUSION
    encoders: dict[str, Any] | None = None
    width: int = 256
    dropout: float | int = 0.1
    max_length: int | None = None

    def encoder_configs(self) -> dict[str, PreTrainedConfig]:
        """Modality to the configuration of its encoder, in an order that no file changes."""
        return {name: AutoConfig.for_model(**settings) for name, settings in sorted((self.encoders or {}).items())}


class FusionModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The mean of each encoder's last states, brought to one width, side by side before two layers.

    Inputs are those of the encoders with the modality in front: `text_input_ids`, `image_pixel_values`.
    """

    config_class = FusionConfig
    base_model_prefix = "encoders"

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        configs = config.encoder_configs()
        self.encoders = nn.ModuleDict({name: _empty(own) for name, own in configs.items()})
        self.projections = nn.ModuleDict({name: _projection(own, config.width) for name, own in configs.items()})
        self.head = nn.Sequential(
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(len(configs) * config.width, config.width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, config.num_labels or 0),
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        parts = [self.projections[name](self._mean(name, encoder, inputs)) for name, encoder in self.encoders.items()]
        return SequenceClassifierOutput(logits=self.head(torch.cat(parts, -1)))

    def _mean(self, name: str, encoder: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean of the encoder's last states over all places that are not padding, (rows, states)."""
        prefix = f"{name}_"
        own = {key.removeprefix(prefix): value for key, value in inputs.items() if key.startswith(prefix)}
        hidden: torch.Tensor = encoder(**own).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        mask = own.get("attention_mask")
        if mask is None:
            return hidden.mean(1)
        if mask.shape[1] != hidden.shape[1]:
            mask = encoder._get_feature_vector_attention_mask(hidden.shape[1], mask)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)


def _empty(config: PreTrainedConfig) -> nn.Module:
    encoder: nn.Module = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    return encoder


def _projection(config: PreTrainedConfig, width: int) -> nn.Module:
    """Encoders differ in how large their values are, so each is normalized first."""
    return nn.Sequential(nn.LayerNorm(states(config)), nn.Linear(states(config), width))


def states(config: PreTrainedConfig) -> int:
    """How many values an encoder's last states have. Raises ConfigError for a model that is no encoder."""
    for name in ("hidden_sizes", "hidden_size", "hidden_dim"):
        found = getattr(config, name, None)
        if found and not config.is_encoder_decoder:
            return int(found[-1] if isinstance(found, list | tuple) else found)
    message = f"spec.model.encoders: a {config.model_type} model has no states of one kind to join with others"
    raise ConfigError("UnsupportedModel", message, "use encoders such as BERT, ViT, ResNet or Wav2Vec2")


class Multimodal:
    """A saved model that answers."""

    def __init__(self, model: FusionModel, modalities: Modalities) -> None:
        self.model = model
        self.modalities = modalities
        self.labels = [str(label) for _, label in sorted((model.config.id2label or {}).items())]
        self.multi_label = model.config.problem_type == "multi_label_classification"

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What `predictions.jsonl` has, for rows with a value for each modality.

        Images and clips are paths, relative to the current folder, or bytes. Raises DataError for what cannot be read,
        and ConfigError for a row that lacks a modality.
        """
        examples, _ = self.modalities.encode([self._row(row, number) for number, row in enumerate(rows, start=1)])
        sizes = [self.modalities.size(example) for example in examples]
        scores: dict[int, Any] = {}
        for batch in micro_batches(range(len(rows)), sizes, ROWS, alike=not self.modalities.pads):
            scores |= zip(batch, self._scores([examples[place] for place in batch]), strict=True)
        return [described(scores[place], self.labels, self.multi_label) for place in range(len(rows))]

    @torch.no_grad()
    def _scores(self, examples: Sequence[Any]) -> Any:
        logits = self.model(**self.modalities.collate(examples)).logits.float()
        return (logits.sigmoid() if self.multi_label else logits.softmax(-1)).numpy()

    def _row(self, values: Mapping[str, Any], number: int) -> Row:
        wanted, place = self.modalities.readers, f"row {number}"
        for name in wanted:
            if name not in values:
                hint = nearest(name, values, "values there are")
                raise ConfigError("ColumnNotFound", f"{place} has no {name}", hint)
        where = {name: Where(place, name, name, Path.cwd()) for name in wanted}
        return Row({name: KINDS[name](values[name], where[name]) for name in wanted}, "", number)


def load_multimodal(folder: str | Path) -> Multimodal:
    """The model in a folder that a run of multimodal-classification saved."""
    path = Path(folder)
    model = FusionModel.from_pretrained(str(path))
    nn.Module.eval(model)
    limit = model.config.max_length
    return Multimodal(model, open_modalities(saved_encoders(path), _config_of, limit, truncation=True))


def _config_of(source: ModelFolder) -> PreTrainedConfig:
    found: PreTrainedConfig = AutoConfig.from_pretrained(str(source.path))
    return found
