"""A progress report, checked: what a training pod says of itself while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.progress import MAX_METRIC_NAME, MAX_METRICS, Checkpoint, Progress, ProgressReport

MAX_WHOLE = 2**53
"""Larger whole numbers lose digits in JSON, and the API server refuses them."""
METRIC_PREFIXES = ("validation_", "test_", "eval_", "train_")


@dataclass(frozen=True)
class Report:
    """What one attempt said last."""

    run: int
    attempt: int
    progress: Progress
    checkpoint: Checkpoint
    metrics: Mapping[str, float]


def read_report(body: bytes, run: int, attempt: int) -> Report:
    """The report in a request's body. Raises ValueError where it is none."""
    status = ProgressReport.model_validate_json(body).trainer_status
    progress, checkpoint = status.progress(), status.checkpoint()
    for model in (progress, checkpoint):
        for name, value in model:
            if isinstance(value, int) and value > MAX_WHOLE:
                raise ValueError(f"{name}: {value} is too large")
    return Report(run, attempt, progress, checkpoint, evaluations(status.numbers()))


def evaluations(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those of `numbers` that tell how good the model is, as many as a status holds."""
    found = {
        name: value
        for name, value in sorted(numbers.items())
        if name.startswith(METRIC_PREFIXES) and len(name) <= MAX_METRIC_NAME
    }
    return dict(list(found.items())[:MAX_METRICS])
