"""The folder of a pre-trained model: found, and checked without loading a weight."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Self

from finetune_trainer.data.hub import download_model, download_small_files
from finetune_trainer.data.uri import Places, is_hub, local_path
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import read_json

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SHIFTED = ("roberta", "camembert", "xlm", "mpnet", "longformer", "data2vec-text", "xmod")
"""Architectures, by the beginning of their type, that count positions from the one after padding."""
ARCHITECTURES = Path(__file__).with_name("architectures.json")


class Part(Enum):
    """What lies beside a model's weights: its name, and the files that it may be in."""

    TOKENIZER = ("tokenizer", ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model"))
    IMAGE_PROCESSOR = ("image processor", ("preprocessor_config.json", "processor_config.json"))
    FEATURE_EXTRACTOR = ("feature extractor", ("preprocessor_config.json", "processor_config.json"))

    def __init__(self, title: str, files: tuple[str, ...]) -> None:
        self.title = title
        self.files = files


@dataclass(frozen=True)
class Needs:
    """What a task needs of a model's folder."""

    auto_classes: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def model_types(self) -> set[str]:
        """`model_type` of every architecture that one of the auto classes loads."""
        return {kind for name in self.auto_classes for kind in architectures()[name]}


@cache
def architectures() -> Mapping[str, Collection[str]]:
    """Auto class of transformers to the model types that it loads, known without importing transformers."""
    known: dict[str, list[str]] = json.loads(ARCHITECTURES.read_text(encoding="utf-8"))
    return known


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine. `positions` is the most tokens that it takes, `revision` its commit on the hub.

    A model of several encoders has no path of its own.
    """

    path: Path
    model_type: str
    positions: int | None = None
    revision: str | None = None
    encoders: Mapping[str, ModelFolder] = field(default_factory=dict)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every file with its name, the encoders' below their modality."""
        for name, encoder in self.encoders.items():
            yield from ((f"{name}/{file}", path) for file, path in encoder.files())
        if not self.encoders:
            yield from ((path.name, path) for path in self.path.iterdir() if path.is_file())

    def to_dict(self) -> dict[str, Any]:
        encoders = {name: encoder.to_dict() for name, encoder in self.encoders.items()}
        return {**vars(self), "path": str(self.path), "encoders": encoders}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        encoders = {name: cls.from_dict(encoder) for name, encoder in value["encoders"].items()}
        return cls(**{**value, "path": Path(value["path"]), "encoders": encoders})


def find_folder(
    uri: str, revision: str | None, place: str, needs: Needs, places: Places, weights: bool = True
) -> ModelFolder:
    """The model that the field `place` names, downloaded if need be. Raises ConfigError if `needs` cannot use it.

    Without `weights` the model's small files are enough, and nothing else is downloaded.
    """
    if not is_hub(uri):
        return read_folder(local_path(uri, places, place), f"{place}: {uri}", needs, weights)
    if not weights:
        folder = download_small_files(uri, revision, place)
        return read_folder(folder, f"{place}: {uri}", needs, weights=False, revision=folder.name)

    def check(folder: Path) -> None:
        read_folder(folder, f"{place}: {uri}", needs, weights=False)

    folder = download_model(uri, revision, place, check, places.downloads)
    return read_folder(folder, f"{place}: {uri}", needs, revision=folder.name)


def read_folder(
    folder: Path, title: str, needs: Needs, weights: bool = True, revision: str | None = None
) -> ModelFolder:
    """A folder as a model. Raises ConfigError, beginning with `title`, if it is none that `needs` can use."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "model_type" not in config:
        message = f"{title} has no config.json with a model_type"
        raise ConfigError("NotAModel", message, "name a folder as transformers' save_pretrained writes it")
    kind = str(config["model_type"])
    if kind not in needs.model_types:
        message = f"{title} is a {kind} model, which cannot do this task"
        known = sorted(needs.model_types)
        raise ConfigError("UnsupportedModel", message, f"model types that can: {', '.join(known[:20])}, …")
    for part in needs.parts:
        if not any((folder / name).exists() for name in part.files):
            raise ConfigError("NotAModel", f"{title} has no {part.title}", f"it needs one of {', '.join(part.files)}")
    if weights and not any((folder / name).exists() for name in WEIGHTS):
        raise ConfigError("NotAModel", f"{title} has no weights", f"it needs one of {', '.join(WEIGHTS)}")
    return ModelFolder(folder, kind, _positions(config), revision)


def sampling_rate(model: ModelFolder) -> int | None:
    """How many samples a second a model hears, as its feature extractor says."""
    folder = model.encoders["audio"].path if "audio" in model.encoders else model.path
    for name in Part.FEATURE_EXTRACTOR.files:
        settings = read_json(folder / name) or {}
        rate = settings.get("feature_extractor", settings).get("sampling_rate")
        if isinstance(rate, int):
            return rate
    return None


def _positions(config: Mapping[str, Any]) -> int | None:
    """Most tokens of one text; None where the architecture has no such limit, or it is another part's."""
    settings = config.get("text_config") or config
    positions = next((settings[name] for name in ("max_position_embeddings", "n_positions") if name in settings), None)
    if not isinstance(positions, int) or config["model_type"] == "t5":
        return None
    shifted = str(config["model_type"]).startswith(SHIFTED)
    return positions - int(config.get("pad_token_id", 1)) - 1 if shifted else positions


def check_max_length(max_length: int | None, model: ModelFolder) -> None:
    """Raise ConfigError if the manifest asks for longer texts than the model takes."""
    if max_length is not None and model.positions is not None and max_length > model.positions:
        message = f"spec.training.maxLength: the model takes at most {model.positions} tokens, not {max_length}"
        raise ConfigError("TooLong", message, f"use {model.positions} or less, or leave it out")
