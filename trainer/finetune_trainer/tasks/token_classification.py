"""token-classification: a tag for each word of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.analysis.confusion import confusion, per_class
from finetune_trainer.analysis.entities import entity_errors
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError
from finetune_trainer.metrics import entities
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained, texts
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Example, Goal, Report, Rows, TaskKind, wrong_row
from finetune_trainer.tasks.classes import check_known, class_weights

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn
    from transformers import PreTrainedModel

COLUMN = "spec.dataset.columns.tags"
IGNORED = -100
"""Target of tokens that no word begins with."""


class TokenClassification(TaskKind):
    """The loss is cross-entropy at the first token of each word, counted in words that the model sees.

    The words are read as one text with blanks between them, as whoever uses the model will give it.
    """

    roles = Roles({"tokens": columns.words, "tags": columns.words}, needed=(("tokens", "tags"),), targets=("tags",))
    inputs = ("tokens",)
    auto_classes = ("AutoModelForTokenClassification",)
    parts = (Part.TOKENIZER,)
    class_name = "tag"
    augments = {"text": augments.WORDS}
    reworded_roles = ("tokens",)
    usage = """\
from transformers import pipeline

tag = pipeline("token-classification", "model", aggregation_strategy="first")
tag("Words with blanks between them .")"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)
        texts.check_offsets(self.tokenizer)
        self.goal = Goal("f1" if all(map(entities.is_entity_tag, labels)) else "f1_macro")

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:  # noqa: ARG003
        """The tags, sorted."""
        for row in chain.from_iterable(rows.values()):
            _check_lengths(row)
        tags = {tag for row in rows[Side.TRAIN] for tag in row.values["tags"]}
        if len(tags) < 2:
            message = f"all words of {len(rows[Side.TRAIN])} training rows have the tag {min(tags)!r}"
            raise DataError("OneTag", message, f"give rows with at least two tags; see {COLUMN}")
        check_known(rows, tags, _tags, "tag")
        return sorted(tags)

    @classmethod
    def classes(cls, row: Row) -> Sequence[str]:
        return _tags(row)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForTokenClassification

        names = {"id2label": dict(enumerate(self.labels)), "label2id": self.numbers}
        config = pretrained.load_config(self.source, self.config, num_labels=len(self.labels), **names)
        return pretrained.load_weights(AutoModelForTokenClassification, self.source, self.config, config)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        limit = texts.longest(self.source, self.tokenizer, self.config)
        joined = [" ".join(row.values["tokens"]) for row in rows]
        encoded, cut = texts.tokenize(self.tokenizer, rows, joined, limit, self.training.truncation)
        examples: list[Example] = [
            {**item, "words": first_tokens(row.values["tokens"], encoding.offsets)}
            for item, row, encoding in zip(texts.examples_of(encoded), rows, encoded.encodings or (), strict=True)
        ]
        if "tags" not in rows[0].values:
            return examples, cut
        return [self._with_tags(example, row) for example, row in zip(examples, rows, strict=True)], cut

    def _with_tags(self, example: Example, row: Row) -> Example:
        if not any(place is not None for place in example["words"]):
            message = f"{row.place}: the model's tokenizer sees none of its words"
            raise DataError("NothingToTag", message, "remove the row")
        targets = [IGNORED] * self.size(example)
        for place, tag in zip(example["words"], _tags(row), strict=True):
            if place is not None:
                targets[place] = self.numbers[tag]
        return {**example, "targets": targets}

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        inputs = texts.pad(self.tokenizer, examples)
        width = inputs["input_ids"].shape[1]
        known = [item["targets"] + [IGNORED] * (width - self.size(item)) for item in examples if "targets" in item]
        words = [example["words"] for example in examples]
        count: float = sum(place is not None for places in words for place in places)
        tokens = sum(self.size(example) for example in examples)
        if not known:
            return Batch(inputs, {}, count, tokens, words)
        targets = {"labels": torch.tensor(known)}
        if weights := class_weights(self, examples):
            count = _weight(targets["labels"], weights["weights"])
        return Batch(inputs, targets | weights, count, tokens, words)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        return functional.cross_entropy(
            outputs.logits.float().flatten(0, 1),
            batch.targets["labels"].flatten(),
            weight=batch.targets.get("weights"),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.training.label_smoothing,
        )

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[list[str]]:  # noqa: ARG002
        """A tag for each word; O for a word that the model did not see."""
        best = outputs.logits.argmax(-1).tolist()
        return [
            [entities.OUTSIDE if place is None else self.labels[row[place]] for place in places]
            for row, places in zip(best, batch.notes, strict=True)
        ]

    def judge(self, rows: Sequence[Row], predictions: Sequence[list[str]], baseline: Sequence[Row] | None) -> Report:
        truth = [_tags(row) for row in rows]
        values = entities.tags(truth, predictions)
        if baseline is not None:
            usual = Counter(chain.from_iterable(map(_tags, baseline))).most_common(1)[0][0]
            words = list(chain.from_iterable(truth))
            values["baseline_accuracy"] = words.count(usual) / len(words)
        return Report(values, errors=_errors(rows, predictions))

    def measure_part(
        self, rows: Sequence[Row], predictions: Sequence[list[str]], places: Sequence[int]
    ) -> dict[str, float]:
        """Nothing where there are no entities, and none was found: the F1 of that is 0, and says nothing."""
        words = chain.from_iterable((*_tags(rows[place]), *predictions[place]) for place in places)
        return {} if set(words) == {entities.OUTSIDE} else dict(super().measure_part(rows, predictions, places))

    def analyse(self, rows: Sequence[Row], predictions: Sequence[list[str]]) -> dict[str, Any]:
        """Which entities went wrong and how; of other tags, which of them are mixed up."""
        truth = [_tags(row) for row in rows]
        if all(map(entities.is_entity_tag, self.labels)):
            return {"entities": entity_errors(truth, predictions)}
        known, said = (self._numbers(some) for some in (truth, predictions))
        return {"confusion": confusion(known, said, self._sayable), "perClass": per_class(known, said, self._sayable)}

    @property
    def _sayable(self) -> list[str]:
        """All tags that there can be: words that the model did not see are O."""
        return [*self.labels, *({entities.OUTSIDE} - {*self.labels})]

    def _numbers(self, tags: Sequence[Sequence[str]]) -> numpy.ndarray:
        import numpy

        numbers = {tag: number for number, tag in enumerate(self._sayable)}
        return numpy.array([numbers[tag] for tag in chain.from_iterable(tags)])

    def present(self, prediction: list[str]) -> dict[str, Any]:
        return {"tags": prediction}

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> tuple[int | None, ...]:
    """The token that each word of a text joined by blanks begins with; None for one that has none, or was cut.

    `offsets` says of each token from which character of the text to which it goes; (0, 0) where it is not in the text.
    """
    found: list[int | None] = []
    begin = token = 0
    for word in words:
        end = begin + len(word)
        while token < len(offsets) and offsets[token][1] <= begin:
            token += 1
        if token < len(offsets) and offsets[token][0] < end:
            found.append(token)
            token += 1
        else:
            found.append(None)
        begin = end + 1
    return tuple(found)


def _weight(targets: torch.Tensor, weights: torch.Tensor) -> float:
    """The sum of the weights of all tags that are to be said."""
    return float(weights.double()[targets[targets != IGNORED]].sum())


def _tags(row: Row) -> tuple[str, ...]:
    tags: tuple[str, ...] = row.values["tags"]
    return tags


def _check_lengths(row: Row) -> None:
    words, tags = len(row.values["tokens"]), len(_tags(row))
    if words != tags:
        message = f"{row.place} has {words} tokens and {tags} tags"
        raise DataError("UnequalLengths", message, f"give each token one tag; see {COLUMN}")


def _errors(rows: Sequence[Row], predictions: Sequence[list[str]]) -> list[dict[str, Any]]:
    """Rows with wrong tags, those with the most first."""
    wrong = [
        sum(a != b for a, b in zip(_tags(row), said, strict=True)) for row, said in zip(rows, predictions, strict=True)
    ]
    worst = sorted((place for place, count in enumerate(wrong) if count), key=lambda place: -wrong[place])
    return [
        wrong_row(rows[place], prediction=predictions[place], wrongTags=wrong[place]) for place in worst[:MOST_ERRORS]
    ]
