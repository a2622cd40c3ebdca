"""What was taken for what, and how well each class is told from the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_trainer.analysis import short
from finetune_trainer.metrics.classification import by_class

if TYPE_CHECKING:
    import numpy

MOST_LABELS = 50
"""Rows and columns of a confusion matrix."""
MOST_CLASSES = 1000
"""Rows of a table of classes."""
OTHER = "(other)"


def confusion(truth: numpy.ndarray, guess: numpy.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """How often each class was taken for each: `counts[true][guessed]`, of class numbers of shape (rows,).

    Of more than 50 classes the most frequent 49 stay, in the order of `labels`; the rest are one, the last.
    """
    import numpy
    from sklearn import metrics  # type: ignore[import-untyped]

    shown = _shown(truth, len(labels))
    joined = len(shown) < len(labels)
    slots = numpy.full(len(labels), len(shown))
    slots[shown] = numpy.arange(len(shown))
    counts = metrics.confusion_matrix(slots[truth], slots[guess], labels=range(len(shown) + joined))
    names = [short(labels[number]) for number in shown] + [OTHER] * joined
    return {"labels": names, "counts": counts.tolist(), "other": joined}


def per_class(truth: numpy.ndarray, guess: numpy.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and rows of each class, the most frequent first; arrays as `by_class` takes them."""
    import numpy

    table = by_class(truth, guess, len(labels))
    order = numpy.argsort(-table[3], kind="stable")[:MOST_CLASSES]
    return [score_row("label", labels[number], *(column[number] for column in table)) for number in order]


def score_row(what: str, name: str, precision: float, recall: float, f1: float, support: int) -> dict[str, Any]:
    """One line of a table of classes or types."""
    scores = {"precision": precision, "recall": recall, "f1": f1}
    return {
        what: short(name),
        **{key: round(float(value), 4) for key, value in scores.items()},
        "support": int(support),
    }


def _shown(truth: numpy.ndarray, classes: int) -> numpy.ndarray:
    """The classes that keep a row of their own, in their order."""
    import numpy

    if classes <= MOST_LABELS:
        return numpy.arange(classes)
    frequent = numpy.argsort(-numpy.bincount(truth, minlength=classes), kind="stable")
    return numpy.sort(frequent[: MOST_LABELS - 1])
