"""Right or wrong labels: one label a row, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

TOP = 5
"""An answer among this many best scores counts as found, where there are more classes than that."""


def single_label(
    truth: numpy.ndarray, scores: numpy.ndarray, labels: Sequence[str]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Values and details of one label a row.

    `truth` holds class numbers, shape (rows,); `scores` probabilities that sum to one, shape (rows, classes); `labels`
    the classes' names. Precision, recall and F1 are means over classes (0 for a class without rows or guesses).
    """
    from sklearn import metrics  # type: ignore[import-untyped]

    guess = scores.argmax(-1)
    numbers = list(range(len(labels)))
    table = metrics.precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0.0)
    values = {"accuracy": float(metrics.accuracy_score(truth, guess))}
    values |= _means(table[:3], "macro") | _top(truth, scores) | _area(truth, scores)
    details = {
        "labels": list(labels),
        "perClass": _per_class(table, labels),
        "confusion": metrics.confusion_matrix(truth, guess, labels=numbers).tolist(),
    }
    return values, details


def multi_label(
    truth: numpy.ndarray, scores: numpy.ndarray, labels: Sequence[str], threshold: float = 0.5
) -> tuple[dict[str, float], dict[str, Any]]:
    """Values and details of any number of labels a row.

    `truth` is boolean and `scores` are independent probabilities, both of shape (rows, classes); a label is predicted
    from `threshold` on. `accuracy` is the share of rows whose set of labels is exactly right.
    """
    from sklearn import metrics

    guess = scores >= threshold
    per_class = metrics.precision_recall_fscore_support(truth, guess, average=None, zero_division=0.0)
    micro = metrics.precision_recall_fscore_support(truth, guess, average="micro", zero_division=0.0)
    values = {"accuracy": float((guess == truth).all(-1).mean())}
    values |= _means(per_class[:3], "macro") | _means(micro[:3], "micro") | _area_over_classes(truth, scores)
    return values, {"labels": list(labels), "perClass": _per_class(per_class, labels), "threshold": threshold}


def _means(table: Sequence[Any], kind: str) -> dict[str, float]:
    import numpy

    names = ("precision", "recall", "f1")
    return {f"{name}_{kind}": float(numpy.mean(column)) for name, column in zip(names, table, strict=True)}


def _per_class(table: Sequence[numpy.ndarray], labels: Sequence[str]) -> dict[str, dict[str, float | int]]:
    return {
        label: {
            "precision": round(float(precision), 4),
            "recall": round(float(recall), 4),
            "f1": round(float(f1), 4),
            "rows": int(rows),
        }
        for label, precision, recall, f1, rows in zip(labels, *table, strict=True)
    }


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
