"""Speech to text by one character, or none, for each moment (connectionist temporal classification)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import pretrained
from finetune_trainer.tasks.automatic_speech_recognition import AutomaticSpeechRecognition
from finetune_trainer.tasks.base import Batch, Example, Examples
from finetune_trainer.tasks.sounds import Sounds, frames

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetune_trainer.training.world import World

log = logging.getLogger(__name__)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")
"""What a vocabulary of ours begins with: CTC's blank is the pad token, and a blank between words is written `|`."""
NAMED = 5
"""Rows that a line of the log names."""


class Ctc(AutomaticSpeechRecognition):
    """Models of waveforms. The loss is counted in characters of the texts that their clips have room for."""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        model_config = pretrained.load_config(source, config)
        augment = self.augment.audio if self.augment else None
        self.sounds = Sounds(source, model_config, self.training.max_length, self.training.truncation, augment)
        if not self.sounds.of_waveforms:
            message = f"spec.model.uri: a {source.model_type} model does not listen to waveforms"
            raise ConfigError("UnsupportedModel", message, "use a model such as Wav2Vec2, HuBERT or WavLM, or Whisper")
        known = any((source.path / name).exists() for name in Part.TOKENIZER.files)
        self.tokenizer = pretrained.load_tokenizer(source) if known else new_tokenizer(labels)

    @property
    def pads(self) -> bool:
        return self.sounds.pads

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForCTC

        vocabulary = {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}
        config = pretrained.load_config(self.source, self.config, **vocabulary)
        return pretrained.load_weights(AutoModelForCTC, self.source, self.config, config)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        clips, cut = self.sounds.encode(rows)
        if "text" not in rows[0].values:
            return clips, cut
        examples: list[Example] = [
            {**clip, **self._fit(clip, tokens)} for clip, tokens in zip(clips, self._tokens(rows), strict=True)
        ]
        _tell_unfit(examples, rows)
        return examples, cut

    def _tokens(self, rows: Sequence[Row]) -> list[list[int]]:
        """The characters of each text without those that the vocabulary lacks, which are counted and told of."""
        vocabulary = self.tokenizer.get_vocab()
        texts = [self.tokenizer.tokenize(row.values["text"]) for row in rows]
        characters = Counter(character for text in texts for character in text)
        unknown = {character: count for character, count in characters.items() if character not in vocabulary}
        if unknown:
            _tell_unknown(unknown, characters.total(), rows[0], vocabulary)
        return [[vocabulary[character] for character in text if character in vocabulary] for text in texts]

    def _fit(self, clip: Example, tokens: list[int]) -> dict[str, Any]:
        """The characters, if the clip is whole and has a frame for each and one between equal neighbours."""
        needed = len(tokens) + sum(one == other for one, other in pairwise(tokens))
        room = frames(self.sounds.model_config, clip["samples"])
        fits = 0 < needed <= room and not clip["cut"]
        return {"tokens": tokens if fits else [], "room": room, "needed": needed}

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        training = examples[Side.TRAIN]
        if not any(example["tokens"] for example in training):
            first = training[0]
            message = (
                f"none of {len(training)} training clips is long enough for its text; {first['place']} makes"
                f" {first['room']} frames, and its text needs {first['needed']}"
            )
            raise DataError(
                "ClipsTooShort", message, "see whether each text belongs to its clip, and to the whole of it"
            )
        config: Any = model.config
        self.sounds.prepare(config, training)
        return examples

    def size(self, example: Example) -> int:
        return self.sounds.size(example)

    def augmented(self, example: Example, seed: int) -> Example:
        """However fast the clip is, its text has room in it."""
        return self.sounds.augmented(example, seed, example["needed"] if example["tokens"] else 1)

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        samples = [self.size(example) for example in examples]
        room = [frames(self.sounds.model_config, count) for count in samples]
        tokens = [example.get("tokens", []) for example in examples]
        targets = {
            "labels": torch.tensor([number for text in tokens for number in text], dtype=torch.long),
            "lengths": torch.tensor([len(text) for text in tokens]),
            "room": torch.tensor(room),
        }
        return Batch(self.sounds.collate(examples), targets, sum(map(len, tokens)), sum(samples), notes=room)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        labels, lengths, room = (batch.targets[name] for name in ("labels", "lengths", "room"))
        scores = outputs.logits.float().log_softmax(-1).transpose(0, 1)
        blank = self.tokenizer.pad_token_id
        losses = functional.ctc_loss(scores, labels, room, lengths, blank, reduction="none", zero_infinity=True)
        return (losses * (lengths > 0)).sum()

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        best = outputs.logits.argmax(-1).cpu()
        return [self.tokenizer.decode(row[:room]) for row, room in zip(best, batch.notes, strict=True)]

    def save(self, folder: Path) -> None:
        self.sounds.save(folder)
        pretrained.save_tokenizer(self.tokenizer, folder)


def new_tokenizer(characters: Sequence[str]) -> PreTrainedTokenizerBase:
    """A vocabulary of single characters."""
    from transformers import Wav2Vec2CTCTokenizer

    written = sorted({character for character in characters if not character.isspace()} - set(SPECIAL))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({token: number for number, token in enumerate((*SPECIAL, *written))}))
        return Wav2Vec2CTCTokenizer(str(file))  # type: ignore[no-untyped-call]


def _tell_unknown(unknown: dict[str, int], total: int, row: Row, vocabulary: dict[str, int]) -> None:
    """Log which characters the vocabulary lacks. Raises DataError if it has none of them."""
    count, named = sum(unknown.values()), " ".join(sorted(unknown)[:20])
    if count == total:
        known = " ".join(sorted(token for token in vocabulary if len(token) == 1)[:60])
        message = f"{row.place} and the texts after it have no character of the model's vocabulary, only {named}"
        raise DataError("UnknownCharacters", message, f"write texts with {known}")
    log.warning("%d of %d characters are not in the model's vocabulary and were left out: %s", count, total, named)


def _tell_unfit(examples: Sequence[Example], rows: Sequence[Row]) -> None:
    unfit = [row.number for row, example in zip(rows, examples, strict=True) if not example["tokens"]]
    if unfit:
        named = ", ".join(map(str, unfit[:NAMED])) + (", …" if len(unfit) > NAMED else "")
        message = "%d of %d clips are too short for their text, and are not learned from: rows %s"
        log.warning(message, len(unfit), len(rows), named)
