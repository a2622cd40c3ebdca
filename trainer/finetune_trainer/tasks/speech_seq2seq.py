"""Speech to text by listening to a clip of fixed length and writing what it says, as Whisper does."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data.examples import Changed
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import pretrained, texts, writing
from finetune_trainer.tasks.automatic_speech_recognition import AutomaticSpeechRecognition
from finetune_trainer.tasks.base import Batch, Example, Examples
from finetune_trainer.tasks.sounds import Sounds

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from finetune_trainer.training.world import World

log = logging.getLogger(__name__)
TRANSCRIBE = "transcribe"
LISTENED = 16
"""Clips that the language is told by."""


class SpeechSeq2Seq(AutomaticSpeechRecognition):
    """The loss is cross-entropy, counted in tokens of the texts; those of clips that were cut do not count."""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        model_config = pretrained.load_config(source, config)
        augment = self.augment.audio if self.augment else None
        self.sounds = Sounds(source, model_config, None, self.training.truncation, augment)
        self.tokenizer = pretrained.load_tokenizer(source)
        positions = int(self.sounds.model_config.max_target_positions)
        self.longest = min(config.training.max_length or positions, positions)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForSpeechSeq2Seq

        config = pretrained.load_config(self.source, self.config)
        model, new = pretrained.load_weights(AutoModelForSpeechSeq2Seq, self.source, self.config, config)
        self._say_how(model.generation_config)
        return model, new

    def _say_how(self, generation: Any) -> None:
        """Begin as the texts that are learned from, with the tokenizer's language and task, and say how to search.

        Where a model does not say it, transformers' pipeline searches otherwise than `generate` does.
        """
        generation.num_beams = generation.num_beams or 1
        language = getattr(self.tokenizer, "language", None)
        if language is not None and getattr(generation, "is_multilingual", False):
            generation.language, generation.task = language, getattr(self.tokenizer, "task", None)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        clips, cut = self.sounds.encode(rows)
        if "text" not in rows[0].values:
            return clips, cut
        examples = [self._written(row, clip) for row, clip in zip(rows, clips, strict=True)]
        return examples, sum(example["cut"] for example in examples)

    def _written(self, row: Row, clip: Example) -> Example:
        """The clip with the tokens of its text: those that it begins with by convention, and the end."""
        tokens = self.tokenizer(row.values["text"]).input_ids
        cut = len(tokens) - 1 > self.longest
        if cut and not self.training.truncation:
            raise texts.too_long(row, self.longest)
        return {**clip, "tokens": tokens[: self.longest + 1], "learned": not clip["cut"], "cut": cut or clip["cut"]}

    def augmented(self, example: Example, seed: int) -> Example:
        return self.sounds.augmented(example, seed)

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        """A tokenizer of many languages that names none is given the one that the model hears in the training clips.

        Generation would begin with that language too, and a text is to be learned as it will be written.
        """
        generation: Any = model.generation_config
        config: Any = model.config
        self.sounds.prepare(config, examples[Side.TRAIN])
        if not getattr(generation, "is_multilingual", False) or getattr(self.tokenizer, "language", "") is not None:
            return examples
        tokenizer: Any = self.tokenizer
        before = len(tokenizer.prefix_tokens)
        language = getattr(generation, "language", None) or self._language(model, examples[Side.TRAIN][:LISTENED])
        tokenizer.set_prefix_tokens(language=language, task=tokenizer.task or TRANSCRIBE)
        log.info("the texts are taken to be in the language %s", language)
        self._say_how(generation)
        return {side: self._begun(some, before) for side, some in examples.items()}

    def _begun(self, examples: Sequence[Example], before: int) -> Sequence[Example]:
        return Changed(examples, lambda _, example: self._begun_anew(example, before), resized=True)

    def _language(self, model: Any, examples: Sequence[Example]) -> str:
        """What the model hears in most of the clips."""
        names = {number: str(token).strip("<|>") for token, number in model.generation_config.lang_to_id.items()}
        features = self.sounds.collate(examples)["input_features"].to(model.device)
        heard: Counter[int] = Counter(model.detect_language(features).tolist())
        return names[max(heard, key=lambda number: (heard[number], -number))]

    def _begun_anew(self, example: Example, before: int) -> Example:
        """With the tokenizer's tokens to begin with, in place of the first `before`."""
        prefix: list[int] = self.tokenizer.prefix_tokens
        return {**example, "tokens": [*prefix, *example["tokens"][before:]][: self.longest + 1]}

    def size(self, example: Example) -> int:
        """Tokens to write; the clips are all of one length."""
        return len(example.get("tokens", (0, 0))) - 1

    def collate(self, examples: Sequence[Example]) -> Batch:
        inputs = self.sounds.collate(examples, masked=True)
        if "tokens" not in examples[0]:
            return Batch(inputs, {}, 0, len(examples))
        written, said = self._shifted(examples)
        targets = writing.aims(said, [range(len(tokens)) for tokens in said], written["decoder_input_ids"].shape[1])
        count = len(targets["labels"])
        return Batch(inputs | written, targets, count, sum(self.size(example) for example in examples))

    def _shifted(self, examples: Sequence[Example]) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        """What the decoder reads, with its mask, (rows, longest), and the tokens that it is to say after each."""
        import torch

        shape = len(examples), max(self.size(example) for example in examples)
        read = torch.full(shape, int(self.tokenizer.pad_token_id))
        mask, said = torch.zeros(shape, dtype=torch.long), []
        for row, example in enumerate(examples):
            length = self.size(example)
            read[row, :length], mask[row, :length] = torch.tensor(example["tokens"][:-1]), 1
            said.append(example["tokens"][1:] if example["learned"] else [])
        return {"decoder_input_ids": read, "decoder_attention_mask": mask}, said

    @property
    def token_loss(self) -> writing.TokenLoss:
        return writing.TokenLoss(self.training.label_smoothing)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return writing.loss(outputs, batch, self.training.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        heard = {name: value for name, value in batch.inputs.items() if not name.startswith("decoder_")}
        writer: Any = model
        return [str(text) for text in self.tokenizer.batch_decode(writer.generate(**heard), skip_special_tokens=True)]

    def answer(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        batch = self.collate(examples).to(next(model.parameters()).device)
        return [self.present(text) for text in self.predict(model, batch, None)]

    def save(self, folder: Path) -> None:
        self.sounds.save(folder)
        pretrained.save_tokenizer(self.tokenizer, folder)
