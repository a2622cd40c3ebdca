"""By how much predicted numbers are off, and for which ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

MOST_BINS = 30
MOST_POINTS = 500


def residuals(truth: numpy.ndarray, guess: numpy.ndarray) -> dict[str, Any]:
    """The mean of guess less truth, a histogram of it, and pairs of both from evenly spaced rows; arrays of (rows,).

    Rows whose guess is not finite are left out; nothing where none is.
    """
    import numpy

    truth, guess = truth.astype(numpy.float64), guess.astype(numpy.float64)
    with numpy.errstate(over="ignore", invalid="ignore"):
        off = guess - truth
    finite = numpy.isfinite(off)
    if not finite.any():
        return {}
    truth, guess, off = truth[finite], guess[finite], off[finite]
    return {"bias": float(f"{off.mean():.6g}"), "histogram": _histogram(off), "points": _points(truth, guess)}


def _histogram(off: numpy.ndarray) -> list[dict[str, Any]]:
    import numpy

    best = len(numpy.histogram_bin_edges(off, "sturges")) - 1
    counts, edges = numpy.histogram(off, min(best, MOST_BINS))
    return [
        {"from": _plain(start), "to": _plain(end), "rows": int(rows)}
        for start, end, rows in zip(edges, edges[1:], counts, strict=False)
    ]


def _points(truth: numpy.ndarray, guess: numpy.ndarray) -> list[dict[str, float]]:
    import numpy

    places = numpy.linspace(0, len(truth) - 1, min(len(truth), MOST_POINTS)).round().astype(int)
    return [{"truth": _plain(truth[place]), "prediction": _plain(guess[place])} for place in places]


def _plain(value: float) -> float:
    return float(f"{value:.6g}")
