"""Classes as targets: one label a row with cross-entropy, or several with a sigmoid each.

What text, image, audio and joint classification share; each of them adds what its model reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.dataset import ProblemType
from finetune_api.run import RunConfig
from finetune_trainer.analysis import calibration, short
from finetune_trainer.analysis.confusion import MOST_CLASSES, confusion, per_class
from finetune_trainer.analysis.thresholds import thresholds
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError, nearest
from finetune_trainer.metrics import classification
from finetune_trainer.tasks.base import TRAINING, Batch, Example, Goal, Report, Rows, TaskKind, wrong_row

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn

COLUMN = "spec.dataset.columns.label"
BINARY = 2
"""Labels of which the second is the one that is looked for."""
THRESHOLD = 0.5
"""A label of several is given to a row from this probability on."""


class Classification(TaskKind):
    """The loss is cross-entropy counted in rows, or for several labels binary cross-entropy counted in values."""

    target = class_name = "label"
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

    @classmethod
    def classes(cls, row: Row) -> Sequence[str]:
        return labels_of(row)

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
        inputs, tokens = self.collate_inputs(examples), sum(self.size(example) for example in examples)
        if "label" not in examples[0]:
            return Batch(inputs, {}, len(examples), tokens)
        targets = self._targets(examples, inputs)
        if weights := class_weights(self, examples):
            return Batch(inputs, targets | weights, self._weight(targets["labels"], weights["weights"]), tokens)
        return Batch(inputs, targets, len(examples) * (len(self.labels) if self.multi_label else 1), tokens)

    @abstractmethod
    def collate_inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """The model's inputs as tensors."""

    def _numbers(self, row: Row) -> tuple[int, ...]:
        return tuple(self.numbers[label] for label in labels_of(row))

    def own_shares(self, examples: Sequence[Example], inputs: Mapping[str, torch.Tensor]) -> Sequence[float] | None:  # noqa: ARG002
        """How much of each example is its own, where others are mixed into them."""
        return None

    def _targets(self, examples: Sequence[Example], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The number of each row's label; for several labels, or for mixed rows, how much each row has of each."""
        import torch

        shares = self.own_shares(examples, inputs)
        if shares is not None:
            own, others = self._hot(examples), self._hot([example["partner"] for example in examples])
            return {"labels": others.lerp(own, torch.tensor(shares)[:, None])}
        if self.multi_label:
            return {"labels": self._hot(examples)}
        return {"labels": torch.tensor([example["label"][0] for example in examples])}

    def _hot(self, examples: Sequence[Example]) -> torch.Tensor:
        """1 where a row has a label, (rows, labels)."""
        import torch

        targets = torch.zeros(len(examples), len(self.labels))
        for place, example in enumerate(examples):
            targets[place, list(example["label"])] = 1.0
        return targets

    def _weight(self, labels: torch.Tensor, weights: torch.Tensor) -> float:
        """What the loss is divided by: the sum of the weights. Of several labels an absent one counts 1."""
        if self.multi_label:
            return float((1.0 + labels.double() * (weights - 1.0)).sum())
        return float((labels.double() @ weights.double() if labels.is_floating_point() else weights[labels]).sum())

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        logits, labels, weights = outputs.logits.float(), batch.targets["labels"], batch.targets.get("weights")
        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="sum")
        smoothing = self.training.label_smoothing
        return functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing)

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        """A probability for each label."""
        logits = outputs.logits.float()
        return list((logits.sigmoid() if self.multi_label else logits.softmax(-1)).cpu().numpy())

    def present(self, prediction: Any) -> dict[str, Any]:
        return described(prediction, self.labels, self.multi_label)

    def judge(self, rows: Sequence[Row], predictions: Sequence[Any], baseline: Sequence[Row] | None) -> Report:
        import numpy

        scores, truth = numpy.stack(predictions), self._truth(rows)
        if self.multi_label:
            values = classification.multi_label(truth, scores, THRESHOLD)
        else:
            values = classification.single_label(truth, scores)
        if baseline is not None:
            values["baseline_accuracy"] = self._baseline(rows, baseline)
        details: dict[str, Any] = {"labels": [short(label) for label in self.labels[:MOST_CLASSES]]}
        if self.multi_label:
            details["threshold"] = THRESHOLD
        return Report(values, details, self._errors(rows, scores))

    def _truth(self, rows: Sequence[Row]) -> numpy.ndarray:
        """The number of each row's label, (rows,); of several labels whether it has each, (rows, labels)."""
        import numpy

        if not self.multi_label:
            return numpy.array([self._numbers(row)[0] for row in rows])
        indicators = numpy.zeros((len(rows), len(self.labels)), dtype=bool)
        for place, row in enumerate(rows):
            indicators[place, list(self._numbers(row))] = True
        return indicators

    def scores(self, rows: Sequence[Row], predictions: Sequence[Any]) -> tuple[numpy.ndarray, numpy.ndarray] | None:
        import numpy

        return None if self.multi_label else (self._truth(rows), numpy.stack(predictions))

    def group(self, row: Row) -> Any:
        return labels_of(row)

    def analyse(self, rows: Sequence[Row], predictions: Sequence[Any]) -> dict[str, Any]:
        """Which classes are mixed up, how sure the model is of it, and for two classes other thresholds."""
        import numpy

        scores, truth = numpy.stack(predictions), self._truth(rows)
        if self.multi_label:
            found = {
                "perClass": per_class(truth, scores >= THRESHOLD, self.labels),
                "calibration": calibration.of_indicators(truth, scores),
                "thresholds": thresholds(truth.ravel(), scores.ravel()),
            }
        else:
            guess = scores.argmax(-1)
            found = {
                "confusion": confusion(truth, guess, self.labels),
                "perClass": per_class(truth, guess, self.labels),
                "calibration": calibration.of_labels(truth, scores),
                "thresholds": thresholds(truth == 1, scores[:, 1]) if len(self.labels) == BINARY else [],
            }
        return {name: part for name, part in found.items() if part}

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


def class_weights(task: TaskKind, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """For the loss of examples that are learned from, `weights` of the classes by their numbers, if they differ."""
    import torch

    if not task.class_weights or TRAINING not in examples[0]:
        return {}
    return {"weights": torch.tensor([task.class_weights[label] for label in task.labels])}


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
