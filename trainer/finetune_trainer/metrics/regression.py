"""Errors of predicted numbers."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def numbers(truth: numpy.ndarray, guess: numpy.ndarray) -> dict[str, float]:
    """mae, mse, rmse, r2, pearson of two arrays of shape (rows,), in the unit of the target.

    r2 is left out where the truth is constant, pearson where either is; everything where a guess is not finite.
    """
    import numpy

    truth, guess = truth.astype(numpy.float64), guess.astype(numpy.float64)
    if not numpy.isfinite(guess).all():
        return {}
    values = _errors(truth, guess) | _fit(truth, guess)
    return {name: value for name, value in values.items() if isfinite(value)}


def _errors(truth: numpy.ndarray, guess: numpy.ndarray) -> dict[str, float]:
    from sklearn import metrics  # type: ignore[import-untyped]

    return {
        "mae": float(metrics.mean_absolute_error(truth, guess)),
        "mse": float(metrics.mean_squared_error(truth, guess)),
        "rmse": float(metrics.root_mean_squared_error(truth, guess)),
    }


def _fit(truth: numpy.ndarray, guess: numpy.ndarray) -> dict[str, float]:
    import numpy
    from sklearn import metrics

    if numpy.ptp(truth) == 0:
        return {}
    values = {"r2": float(metrics.r2_score(truth, guess))}
    if numpy.ptp(guess) > 0:
        values["pearson"] = float(numpy.corrcoef(truth, guess)[0, 1])
    return values
