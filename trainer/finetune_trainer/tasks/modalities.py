"""What several encoders read of a row: its text, its image, its clip, each for its own encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune_api.augment import Augment
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import ModelFolder, Needs, Part, read_folder
from finetune_trainer.tasks import pretrained, texts
from finetune_trainer.tasks.base import Example
from finetune_trainer.tasks.images import Images
from finetune_trainer.tasks.sounds import Sounds

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

FUSION = "finetune-fusion"
"""The `model_type` of a model that joins encoders."""
AUDIO = "audio"
ENCODERS: Mapping[str, Part] = {
    "text": Part.TOKENIZER,
    "image": Part.IMAGE_PROCESSOR,
    AUDIO: Part.FEATURE_EXTRACTOR,
}
"""The modalities, and what must lie beside the weights of each one's encoder."""
AUTO_CLASSES = ("AutoModel",)


class Reader(Protocol):
    """What one encoder takes of rows."""

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]: ...

    def size(self, example: Example) -> int: ...

    def augmented(self, example: Example, seed: int) -> Example: ...

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]: ...

    def save(self, folder: Path) -> None: ...


class Texts:
    """The tokenizer of an encoder's folder."""

    def __init__(self, source: ModelFolder, max_length: int | None, truncation: bool) -> None:
        self.tokenizer = pretrained.load_tokenizer(source)
        limits = (max_length, source.positions, self.tokenizer.model_max_length)
        self.limit = min(limit for limit in limits if limit is not None)
        self.truncation = truncation

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        encoded, cut = texts.encode(self.tokenizer, rows, self.limit, self.truncation)
        return list(encoded), cut

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def augmented(self, example: Example, seed: int) -> Example:  # noqa: ARG002
        """Words are changed before they are encoded."""
        return example

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return texts.pad(self.tokenizer, examples)

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)


@dataclass(frozen=True)
class Modalities:
    """A reader for each modality. An example has what each of them makes of the row, under the modality's name."""

    readers: Mapping[str, Reader]

    @property
    def pads(self) -> bool:
        """Whether the model gives a row the same result beside longer ones."""
        sounds = self.readers.get(AUDIO)
        return not isinstance(sounds, Sounds) or sounds.pads

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """The examples, and of the modality with most of them how many were cut to the longest length."""
        found = {name: reader.encode(rows) for name, reader in self.readers.items()}
        examples = [{name: encoded[place] for name, (encoded, _) in found.items()} for place in range(len(rows))]
        return list(examples), max(cut for _, cut in found.values())

    def size(self, example: Example) -> int:
        """That of the modality whose rows differ most in length: sound before text before images."""
        longest = next(name for name in (AUDIO, "text", "image") if name in self.readers)
        return self.readers[longest].size(example[longest])

    def augmented(self, example: Example, seed: int) -> Example:
        """The example with the seed that each modality is changed by."""
        return {**example, **{name: reader.augmented(example[name], seed) for name, reader in self.readers.items()}}

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """The inputs of all encoders, each named by its modality first: `text_input_ids`."""
        return {
            f"{name}_{key}": tensor
            for name, reader in self.readers.items()
            for key, tensor in reader.collate([example[name] for example in examples]).items()
        }

    def save(self, folder: Path) -> None:
        for name, reader in self.readers.items():
            reader.save(folder / name)


def open_modalities(
    encoders: Mapping[str, ModelFolder],
    config_of: Callable[[ModelFolder], PreTrainedConfig],
    max_length: int | None,
    truncation: bool,
    augment: Augment | None = None,
) -> Modalities:
    """The readers of the encoders in these folders; `max_length` is the most tokens of a text."""
    wanted = augment or Augment()
    makers: dict[str, Callable[[ModelFolder], Reader]] = {
        "text": lambda source: Texts(source, max_length, truncation),
        "image": lambda source: Images(source, wanted.image),
        AUDIO: lambda source: Sounds(source, config_of(source), None, truncation, wanted.audio),
    }
    return Modalities({name: makers[name](source) for name, source in encoders.items()})


def saved_encoders(folder: Path) -> dict[str, ModelFolder]:
    """Of a saved model, the folders with each encoder's configuration and its tokenizer or processor."""
    return {
        name: read_folder(folder / name, str(folder / name), Needs(AUTO_CLASSES, (part,)), weights=False)
        for name, part in ENCODERS.items()
        if (folder / name).is_dir()
    }
