"""What a label costs and brings if it is given from another probability on than one half."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

MOST = 50
"""Thresholds of a table."""
USUAL = 0.5


def thresholds(truth: numpy.ndarray, scores: numpy.ndarray) -> list[dict[str, float]]:
    """Precision, recall, F1 and accuracy at up to 50 thresholds, from the lowest; both arrays of shape (values,).

    They are spread evenly over the scores that rows have; the one with the best F1 is among them, and the one that is
    next above one half. Nothing where all are of one kind, or a score is not finite.
    """
    import numpy
    from sklearn import metrics  # type: ignore[import-untyped]

    truth = truth.astype(bool)
    if truth.all() or not truth.any() or not numpy.isfinite(scores).all():
        return []
    precision, recall, cuts = metrics.precision_recall_curve(truth, scores)
    precision, recall = precision[:-1], recall[:-1]
    f1 = 2 * precision * recall / numpy.maximum(precision + recall, 1e-12)
    below, hits = (numpy.searchsorted(numpy.sort(scores[kind]), cuts) for kind in (~truth, truth))
    accuracy = (below + truth.sum() - hits) / len(truth)
    columns = {"threshold": cuts, "precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy}
    return [
        {name: round(float(column[place]), 6 if name == "threshold" else 4) for name, column in columns.items()}
        for place in _chosen(cuts, int(f1.argmax()))
    ]


def _chosen(cuts: numpy.ndarray, best: int) -> list[int]:
    import numpy

    usual = min(int(numpy.searchsorted(cuts, USUAL)), len(cuts) - 1)
    even = numpy.linspace(0, len(cuts) - 1, min(len(cuts), MOST - 2)).round().astype(int)
    return sorted({best, usual, *even.tolist()})
