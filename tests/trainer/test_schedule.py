"""Steps, warm-up and learning rate are the arithmetic that the manifest's author expects."""

from __future__ import annotations

import pytest

from finetune_api.training import GradualUnfreezing, Scheduler, Training
from finetune_trainer.training.schedule import (
    learning_rate_factor,
    log_interval,
    total_steps,
    unfreezing_interval,
    warmup_steps,
)


@pytest.mark.parametrize(
    ("training", "rows", "steps"),
    [
        pytest.param({"num_train_epochs": 3}, 96, 9, id="whole batches"),
        pytest.param({"num_train_epochs": 3}, 97, 12, id="a batch of one row"),
        pytest.param({"num_train_epochs": 0.5}, 97, 2, id="half an epoch"),
        pytest.param({"num_train_epochs": 0.01}, 10, 1, id="never no step"),
        pytest.param({"num_train_epochs": 3, "max_steps": 5}, 97, 5, id="maxSteps wins"),
    ],
)
def test_total_steps(training: dict[str, float], rows: int, steps: int) -> None:
    assert total_steps(Training.model_validate({"train_batch_size": 32, **training}), rows) == steps


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        pytest.param({}, 0, id="none"),
        pytest.param({"warmup_steps": 7}, 7, id="steps"),
        pytest.param({"warmup_ratio": 0.06}, 6, id="ratio"),
        pytest.param({"warmup_ratio": 0.051}, 6, id="ratio rounds up"),
    ],
)
def test_warmup_steps(training: dict[str, float], steps: int) -> None:
    assert warmup_steps(Training.model_validate(training), 100) == steps


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        pytest.param("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25], id="linear"),
        pytest.param("cosine", [0.5, 1.0, 1.0, 0.85355, 0.5, 0.14645], id="cosine"),
        pytest.param("polynomial", [0.5, 1.0, 1.0, 0.5625, 0.25, 0.0625], id="polynomial: squared if nothing is said"),
        pytest.param("inverse_sqrt", [0.5, 1.0, 1.0, 0.8165, 0.70711, 0.63246], id="inverse_sqrt"),
        pytest.param("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0], id="constant"),
    ],
)
def test_learning_rate(kind: str, factors: list[float]) -> None:
    """Two steps of warm-up, four of decay; no step is wasted at zero."""
    training = Training(lr_scheduler_type=Scheduler(kind))
    assert [round(learning_rate_factor(step, 6, 2, training), 5) for step in range(6)] == factors


@pytest.mark.parametrize(
    ("unfreezing", "steps"),
    [
        pytest.param({"every_epochs": 1}, 13, id="epochs"),
        pytest.param({"every_epochs": 0.5}, 7, id="half an epoch"),
        pytest.param({"every_epochs": 0.01}, 1, id="never no step"),
        pytest.param({"every_steps": 5}, 5, id="steps"),
    ],
)
def test_unfreezing_interval(unfreezing: dict[str, float], steps: int) -> None:
    assert unfreezing_interval(GradualUnfreezing.model_validate(unfreezing), 13) == steps


@pytest.mark.parametrize(
    ("total", "interval"),
    [
        pytest.param(30, 1, id="short: every step"),
        pytest.param(1000, 10, id="about a hundred"),
        pytest.param(100_000, 50, id="long: not rarer than 50"),
    ],
)
def test_log_interval(total: int, interval: int) -> None:
    assert log_interval(total) == interval
