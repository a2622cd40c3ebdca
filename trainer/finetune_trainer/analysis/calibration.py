"""Whether a model is right as often as it is sure (Guo et al. 2017, On Calibration of Modern Neural Networks)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

BINS = 15
"""Of equal width from 0 to 1, as in the paper."""


def calibration(confidence: numpy.ndarray, right: numpy.ndarray) -> dict[str, Any]:
    """The expected calibration error, and the bins that it is summed over; bins without rows are left out.

    `confidence` is the probability of what was said, `right` whether it was so, both of shape (rows,). The error is
    the distance between the mean of one and the share of the other in each bin, weighted by the bin's rows.
    """
    import numpy

    if not len(confidence) or not numpy.isfinite(confidence).all():
        return {}
    edges = numpy.linspace(0, 1, BINS + 1)
    places = numpy.clip(numpy.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)
    rows = numpy.bincount(places, minlength=BINS)
    sure, hits = (numpy.bincount(places, weights=values, minlength=BINS) for values in (confidence, right))
    bins = [_bin(edges, number, int(rows[number]), sure, hits) for number in range(BINS) if rows[number]]
    return {"ece": round(float(abs(sure - hits).sum() / len(confidence)), 6), "bins": bins}


def of_labels(truth: numpy.ndarray, scores: numpy.ndarray) -> dict[str, Any]:
    """Of the likeliest class of each row: class numbers of shape (rows,), probabilities of shape (rows, classes)."""
    return calibration(scores.max(-1).astype("float64"), scores.argmax(-1) == truth)


def of_indicators(truth: numpy.ndarray, scores: numpy.ndarray) -> dict[str, Any]:
    """Of every label of every row, where each is there or not: both of shape (rows, labels)."""
    return calibration(scores.ravel().astype("float64"), truth.ravel())


def _bin(edges: numpy.ndarray, number: int, rows: int, sure: numpy.ndarray, hits: numpy.ndarray) -> dict[str, Any]:
    return {
        "from": round(float(edges[number]), 4),
        "to": round(float(edges[number + 1]), 4),
        "rows": rows,
        "confidence": round(float(sure[number]) / rows, 4),
        "accuracy": round(float(hits[number]) / rows, 4),
    }
