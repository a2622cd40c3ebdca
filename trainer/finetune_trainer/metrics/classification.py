"""Right or wrong labels: one label a row, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

TOP = 5
"""An answer among this many best scores counts as found, where there are more classes than that."""


def single_label(truth: numpy.ndarray, scores: numpy.ndarray) -> dict[str, float]:
    """Values of one label a row.

    `truth` holds class numbers, shape (rows,); `scores` probabilities that sum to one, shape (rows, classes).
    Precision, recall and F1 are means over classes (0 for a class without rows or guesses).
    """
    from sklearn import metrics  # type: ignore[import-untyped]

    guess = scores.argmax(-1)
    table = by_class(truth, guess, scores.shape[1])
    values = {"accuracy": float(metrics.accuracy_score(truth, guess))}
    return values | _means(table[:3], "macro") | _top(truth, scores) | _area(truth, scores)


def multi_label(truth: numpy.ndarray, scores: numpy.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Values of any number of labels a row.

    `truth` is boolean and `scores` are independent probabilities, both of shape (rows, classes); a label is predicted
    from `threshold` on. `accuracy` is the share of rows whose set of labels is exactly right.
    """
    guess, classes = scores >= threshold, scores.shape[1]
    per_class, micro = by_class(truth, guess, classes), by_class(truth, guess, classes, average="micro")
    values = {"accuracy": float((guess == truth).all(-1).mean())}
    return values | _means(per_class[:3], "macro") | _means(micro[:3], "micro") | _area_over_classes(truth, scores)


def by_class(truth: numpy.ndarray, guess: numpy.ndarray, classes: int, average: str | None = None) -> Any:
    """Precision, recall, F1 and rows of each class, or their `average`; 0 for a class without rows or guesses.

    Both are class numbers of shape (rows,), or for any number of labels a row booleans of shape (rows, classes).
    """
    from sklearn import metrics

    # scikit-learn takes a single column of booleans for the two classes False and True.
    numbers = [1] if truth.ndim > 1 and classes == 1 else list(range(classes))
    return metrics.precision_recall_fscore_support(truth, guess, labels=numbers, average=average, zero_division=0.0)


def _means(table: Sequence[Any], kind: str) -> dict[str, float]:
    import numpy

    names = ("precision", "recall", "f1")
    return {f"{name}_{kind}": float(numpy.mean(column)) for name, column in zip(names, table, strict=True)}


def _top(truth: numpy.ndarray, scores: numpy.ndarray) -> dict[str, float]:
    from sklearn import metrics

    classes = scores.shape[1]
    if classes <= TOP:
        return {}
    return {f"top{TOP}_accuracy": float(metrics.top_k_accuracy_score(truth, scores, k=TOP, labels=range(classes)))}


def _area(truth: numpy.ndarray, scores: numpy.ndarray) -> dict[str, float]:
    """One-against-rest mean; nothing where a class has no row, since the curve is not defined there."""
    from sklearn import metrics

    classes = scores.shape[1]
    if len(set(truth.tolist())) < classes:
        return {}
    if classes == 2:
        return {"roc_auc": float(metrics.roc_auc_score(truth, scores[:, 1]))}
    return {"roc_auc": float(metrics.roc_auc_score(truth, scores, multi_class="ovr"))}


def _area_over_classes(truth: numpy.ndarray, scores: numpy.ndarray) -> dict[str, float]:
    """Mean over the classes that some rows have and some have not."""
    from sklearn import metrics

    defined = truth.any(0) & ~truth.all(0)
    if not defined.any():
        return {}
    return {"roc_auc_macro": float(metrics.roc_auc_score(truth[:, defined], scores[:, defined], average="macro"))}
