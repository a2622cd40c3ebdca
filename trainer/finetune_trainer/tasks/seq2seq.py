"""One text after another: what all tasks share whose model reads a text and then writes one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained, texts, writing
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Example, Examples, Report, TaskKind, wrong_row

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from finetune_trainer.training.world import World

ARGUMENTS = {"source": "text", "target": "text_target"}
"""Role to the tokenizer's argument: some write another language than they read."""


class SequenceToSequence(TaskKind):
    """The loss is cross-entropy counted in tokens of the targets, their end included."""

    roles = Roles({"source": columns.text, "target": columns.text}, needed=(("source", "target"),), targets=("target",))
    inputs = ("source",)
    auto_classes = ("AutoModelForSeq2SeqLM",)
    parts = (Part.TOKENIZER,)
    augments = {"text": augments.WORDS}
    reworded_roles = ("source",)
    evaluation_rows = 16

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)
        self.limit = texts.longest(source, self.tokenizer, config)
        self.start = getattr(pretrained.load_config(source, config), "decoder_start_token_id", None)
        if self.start is None:
            message = "spec.model.uri: its config.json has no decoder_start_token_id"
            raise ConfigError("NoStartToken", message, "write the token there that its decoder begins with")

    @abstractmethod
    def measure(self, guesses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """The task's metrics; one of them is the goal's."""

    @abstractmethod
    def guess(self, rows: Sequence[Row], training: Sequence[Row]) -> list[str]:
        """What is said without having learned anything."""

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForSeq2SeqLM

        config = pretrained.load_config(self.source, self.config)
        return pretrained.load_weights(AutoModelForSeq2SeqLM, self.source, self.config, config)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        sources, cut = self._tokens(rows, "source")
        if "target" not in rows[0].values:
            return [{"input_ids": source} for source in sources], len(cut)
        targets, also_cut = self._tokens(rows, "target")
        both = zip(sources, targets, strict=True)
        return [{"input_ids": source, "target": target} for source, target in both], len(cut | also_cut)

    def _tokens(self, rows: Sequence[Row], role: str) -> tuple[list[list[int]], set[int]]:
        """The tokens of each row, and the rows that were cut. Raises DataError if texts are not to be cut."""
        name, given = ARGUMENTS[role], [row.values[role] for row in rows]
        encoded: list[list[int]] = self.tokenizer(**{name: given}, verbose=False)["input_ids"]
        cut = {place for place, tokens in enumerate(encoded) if len(tokens) > self.limit}
        if cut and not self.training.truncation:
            raise texts.too_long(rows[min(cut)], self.limit, role)
        for place in cut:
            shorter = self.tokenizer(**{name: given[place]}, truncation=True, max_length=self.limit)
            encoded[place] = shorter["input_ids"]
        return encoded, cut

    def size(self, example: Example) -> int:
        return len(example["input_ids"]) + len(example.get("target", ()))

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        lengths = [len(example["target"]) for example in examples[Side.TRAIN]]
        writing.set_lengths(model, self._pad, max(lengths), min(lengths))
        return examples

    def collate(self, examples: Sequence[Example]) -> Batch:
        inputs, tokens = texts.pad(self.tokenizer, examples), sum(self.size(example) for example in examples)
        if "target" not in examples[0]:
            return Batch(inputs, {}, 0, tokens)
        targets = [example["target"] for example in examples]
        inputs |= self._shifted(targets)
        aims = writing.aims(targets, [range(len(target)) for target in targets], max(map(len, targets)))
        return Batch(inputs, aims, len(aims["labels"]), tokens)

    def _shifted(self, targets: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """What the decoder reads where it should say the targets: each token one place later, padded on the right."""
        import torch

        width = max(map(len, targets))
        read = [[self.start, *target[:-1], *[self._pad] * (width - len(target))] for target in targets]
        mask = [[1] * len(target) + [0] * (width - len(target)) for target in targets]
        return {"decoder_input_ids": torch.tensor(read), "decoder_attention_mask": torch.tensor(mask)}

    @property
    def _pad(self) -> int:
        pad: int = self.tokenizer.pad_token_id
        return pad

    @property
    def token_loss(self) -> writing.TokenLoss:
        return writing.TokenLoss(self.training.label_smoothing)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return writing.loss(outputs, batch, self.training.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        """The text that the model writes."""
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        written = writing.write(model, inputs)
        return [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]

    def present(self, prediction: Any) -> dict[str, Any]:
        return {"generated_text": prediction}

    def answer(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        batch = self.collate(examples).to(next(model.parameters()).device)
        return [self.present(text) for text in self.predict(model, batch, None)]

    def judge(self, rows: Sequence[Row], predictions: Sequence[Any], baseline: Sequence[Row] | None) -> Report:
        references = [row.values["target"] for row in rows]
        values, name = self.measure(predictions, references), self.goal.metric
        if baseline is not None:
            values[f"baseline_{name}"] = self.measure(self.guess(rows, baseline), references)[name]
        return Report(values, {}, self._errors(rows, predictions))

    def measure_part(self, rows: Sequence[Row], predictions: Sequence[Any], places: Sequence[int]) -> dict[str, float]:
        """Without the scores of single rows, which take as long again."""
        return self.measure(
            [predictions[place] for place in places], [rows[place].values["target"] for place in places]
        )

    def _errors(self, rows: Sequence[Row], predictions: Sequence[str]) -> list[dict[str, Any]]:
        """The rows that were written otherwise, the least alike first."""
        name, found = self.goal.metric, []
        for row, guess in zip(rows, predictions, strict=True):
            target = row.values["target"]
            if guess.strip() != target.strip():
                score = round(self.measure([guess], [target])[name], 4)
                found.append(wrong_row(row, prediction=guess, **{name: score}))
        return sorted(found, key=lambda error: float(error[name]))[:MOST_ERRORS]

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)
