"""Classes as targets: one label a row with cross-entropy, or several with a sigmoid each.

What text, image, audio and joint classification share; each of them adds what its model reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.dataset import ProblemType
from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError, nearest
from finetune_trainer.metrics import classification
from finetune_trainer.tasks.base import Batch, Example, Goal, Report, Rows, TaskKind, wrong_row

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn

COLUMN = "spec.dataset.columns.label"
THRESHOLD = 0.5
"""A label of several is given to a row from this probability on."""


class Classification(TaskKind):
    """The loss is cross-entropy counted in rows, or for several labels binary cross-entropy counted in values."""

    target = "label"
    goal = Goal("accuracy")

    @property
    def multi_label(self) -> bool:
        return _is_multi_label(self.config)

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:
        """The labels, sorted as numbers where all are."""
        for row in (row for some in rows.values() for row in some):
            _check_row(row, _is_multi_label(config))
        labels = {label for row in rows[Side.TRAIN] for label in labels_of(row)}
        if len(labels) < (1 if _is_multi_label(config) else 2):
            message = f"all {len(rows[Side.TRAIN])} training rows have the label {min(labels, default='(none)')!r}"
            raise DataError("OneLabel", message, f"give rows of at least two labels; see {COLUMN}")
        check_known(rows, labels, labels_of, "label")
        return _sorted(labels)

    def head(self) -> dict[str, Any]:
        """What the model's configuration says of its labels, so that whoever loads it knows their names."""
        kind = "multi_label_classification" if self.multi_label else "single_label_classification"
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": self.numbers,
            "problem_type": kind,
        }

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        inputs, cut = self.encode_inputs(rows)
        if self.target not in rows[0].values:
            return inputs, cut
        return [{**item, "label": self._numbers(row)} for item, row in zip(inputs, rows, strict=True)], cut

    @abstractmethod
    def encode_inputs(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """What the model reads of each row, and how many rows were cut."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        targets = {"labels": self._targets(examples)} if "label" in examples[0] else {}
        count = len(examples) * (len(self.labels) if self.multi_label else 1)
        return Batch(self.collate_inputs(examples), targets, count, sum(self.size(example) for example in examples))

    @abstractmethod
    def collate_inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """The model's inputs as tensors."""

    def _numbers(self, row: Row) -> tuple[int, ...]:
        return tuple(self.numbers[label] for label in labels_of(row))

    def _targets(self, examples: Sequence[Example]) -> torch.Tensor:
        import torch

        if not self.multi_label:
            return torch.tensor([example["label"][0] for example in examples])
        targets = torch.zeros(len(examples), len(self.labels))
        for place, example in enumerate(examples):
            targets[place, list(example["label"])] = 1.0
        return targets

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        logits, labels = outputs.logits.float(), batch.targets["labels"]
        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.training.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        """A probability for each label."""
        logits = outputs.logits.float()
        return list((logits.sigmoid() if self.multi_label else logits.softmax(-1)).cpu().numpy())

    def present(self, prediction: Any) -> dict[str, Any]:
        return described(prediction, self.labels, self.multi_label)

    def judge(self, rows: Sequence[Row], predictions: Sequence[Any], baseline: Sequence[Row] | None) -> Report:
        import numpy

        scores = numpy.stack(predictions)
        truth = [self._numbers(row) for row in rows]
        if self.multi_label:
            values, details = classification.multi_label(self._indicators(truth), scores, self.labels, THRESHOLD)
        else:
            first = numpy.array([numbers[0] for numbers in truth])
            values, details = classification.single_label(first, scores, self.labels)
        if baseline is not None:
            values["baseline_accuracy"] = self._baseline(rows, baseline)
        return Report(values, details, self._errors(rows, scores))

    def _indicators(self, truth: Sequence[tuple[int, ...]]) -> numpy.ndarray:
        """Whether each row has each label, (rows, labels)."""
        import numpy

        indicators = numpy.zeros((len(truth), len(self.labels)), dtype=bool)
        for place, numbers in enumerate(truth):
            indicators[place, list(numbers)] = True
        return indicators

    def _baseline(self, rows: Sequence[Row], training: Sequence[Row]) -> float:
        """Accuracy of always saying what most of the training rows have."""
        usual = Counter(frozenset(labels_of(row)) for row in training).most_common(1)[0][0]
        return sum(frozenset(labels_of(row)) == usual for row in rows) / len(rows)

    def _errors(self, rows: Sequence[Row], scores: numpy.ndarray) -> list[dict[str, Any]]:
        """The rows that went wrong, the surest first."""
        wrong = [place for place, row in enumerate(rows) if self._guess(scores[place]) != set(labels_of(row))]
        wrong.sort(key=lambda place: -float(scores[place].max()))
        return [self._error(rows[place], scores[place]) for place in wrong]

    def _guess(self, scores: numpy.ndarray) -> set[str]:
        said = self.present(scores)
        return set(said["labels"]) if self.multi_label else {said["label"]}

    def _error(self, row: Row, scores: numpy.ndarray) -> dict[str, Any]:
        said = self.present(scores)
        prediction = said.get("label", said.get("labels"))
        return wrong_row(row, prediction=prediction, score=round(float(scores.max()), 4))


def described(scores: numpy.ndarray, labels: Sequence[str], multi_label: bool) -> dict[str, Any]:
    """A probability for each label as people read it."""
    if not multi_label:
        best = int(scores.argmax())
        return {"label": labels[best], "score": round(float(scores[best]), 4)}
    given = [label for label, score in zip(labels, scores, strict=True) if score >= THRESHOLD]
    return {
        "labels": given,
        "scores": {label: round(float(score), 4) for label, score in zip(labels, scores, strict=True)},
    }


def _is_multi_label(config: RunConfig) -> bool:
    return config.dataset.problem_type is ProblemType.MULTI_LABEL


def labels_of(row: Row) -> tuple[str, ...]:
    """The labels of a row, one or several."""
    value = row.values["label"]
    return value if isinstance(value, tuple) else (value,)


def check_known(rows: Rows, known: Collection[str], labels_of: Callable[[Row], Iterable[str]], what: str) -> None:
    """Raise DataError for a row that is held out and has a label (`what` people call it) that is not in `known`."""
    for side in (Side.VALIDATION, Side.TEST):
        for row in rows.get(side, ()):
            for label in labels_of(row):
                if label not in known:
                    message = f"{row.place}: no training row has the {what} {label!r}"
                    raise DataError(f"Unknown{what.title()}", message, nearest(label, known, f"{what}s"))


def _check_row(row: Row, multi_label: bool) -> None:
    labels = labels_of(row)
    if any(label.strip().lower() == "nan" for label in labels):
        raise DataError("EmptyValue", f"{row.place}: the label is NaN", "fill the cell or remove the row")
    if len(labels) != 1 and not multi_label:
        message = f"{row.place} has {len(labels)} labels"
        raise DataError("SeveralLabels", message, "set spec.dataset.problemType: MultiLabel, or give it one label")


def _sorted(labels: Iterable[str]) -> list[str]:
    known = list(labels)
    numeric = all(label.removeprefix("-").isdecimal() for label in known)
    return sorted(known, key=int) if numeric else sorted(known)
