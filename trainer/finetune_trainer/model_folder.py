"""The folder of a pre-trained model: found, and checked without loading a weight."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.job import Model
from finetune_trainer.data.hub import download_model
from finetune_trainer.data.uri import Places, is_hub, local_path
from finetune_trainer.errors import ConfigError, nearest
from finetune_trainer.files import read_json

FIELD = "spec.model.uri"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine. `positions` is the most tokens that it takes, `revision` its commit on the hub."""

    path: Path
    model_type: str
    positions: int | None
    revision: str | None = None


def find_model(model: Model, model_types: Collection[str], places: Places) -> ModelFolder:
    """The model that the manifest names, downloaded if need be. Raises ConfigError if the task cannot use it."""
    if not is_hub(model.uri):
        return _check(local_path(model.uri, places, FIELD), model.uri, model_types, weights=True)
    _check(download_model(model.uri, model.revision, FIELD, weights=False), model.uri, model_types, weights=False)
    folder = download_model(model.uri, model.revision, FIELD, weights=True)
    return _check(folder, model.uri, model_types, weights=True, revision=folder.name)


def _check(
    folder: Path, uri: str, model_types: Collection[str], weights: bool, revision: str | None = None
) -> ModelFolder:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "model_type" not in config:
        message = f"{FIELD}: {uri} has no config.json with a model_type"
        raise ConfigError("NotAModel", message, "name a folder as transformers' save_pretrained writes it")
    kind = str(config["model_type"])
    if kind not in model_types:
        message = f"{FIELD}: {uri} is a {kind} model, which cannot do this task"
        raise ConfigError("UnsupportedModel", message, nearest(kind, model_types, "model types that can"))
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise ConfigError("NotAModel", f"{FIELD}: {uri} has no tokenizer", f"it needs one of {', '.join(TOKENIZERS)}")
    if weights and not any((folder / name).exists() for name in WEIGHTS):
        raise ConfigError("NotAModel", f"{FIELD}: {uri} has no weights", f"it needs one of {', '.join(WEIGHTS)}")
    return ModelFolder(folder, kind, _positions(config), revision)


def _positions(config: dict[str, Any]) -> int | None:
    """RoBERTa counts its positions from the one after padding, so it takes fewer tokens than it has positions."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    return positions - int(config.get("pad_token_id", 1)) - 1 if config["model_type"] == "roberta" else positions


def check_max_length(max_length: int | None, model: ModelFolder) -> None:
    """Raise ConfigError if the manifest asks for longer texts than the model takes."""
    if max_length is not None and model.positions is not None and max_length > model.positions:
        message = f"spec.training.maxLength: the model takes at most {model.positions} tokens, not {max_length}"
        raise ConfigError("TooLong", message, f"use {model.positions} or less, or leave it out")
