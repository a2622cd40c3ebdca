"""A progress report is checked at the door: nothing that passes can spoil a status."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.progress import Checkpoint, Progress
from finetune_api.status import Status
from finetune_operator.core.report import Report, evaluations, read_report


def body(**status: Any) -> bytes:
    return json.dumps({"trainerStatus": status}).encode()


def metrics(**values: Any) -> list[dict[str, str]]:
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def test_a_report_in_our_words() -> None:
    numbers = metrics(
        step=20, total_steps=80, loss=0.61234, validation_loss=0.7, learning_rate=1e-4, checkpoint_step=15
    )
    report = read_report(body(progressPercentage=25, estimatedRemainingSeconds=90, metrics=numbers), 1, 2)
    assert report == Report(
        run=1,
        attempt=2,
        progress=Progress(percentage=25, step=20, total_steps=80, loss="0.6123", eta_seconds=90),
        checkpoint=Checkpoint(step=15),
        metrics={"validation_loss": 0.7},
    )


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"{}", id="without trainerStatus"),
        pytest.param(body(metrics=metrics(step=1e300)), id="a step beyond all numbers"),
        pytest.param(body(metrics=metrics(epoch=1e300)), id="an epoch of 300 digits"),
        pytest.param(body(progressPercentage="many"), id="a percentage in words"),
    ],
)
def test_what_would_spoil_the_status_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_report(bad, 1, 1)


@given(
    st.dictionaries(
        st.sampled_from(["step", "total_steps", "loss", "epoch", "tokens_per_second", "checkpoint_step", "test_f1"]),
        st.floats() | st.integers() | st.text(max_size=20),
    ),
    st.integers() | st.none(),
    st.integers() | st.none(),
    st.text(max_size=100) | st.none(),
)
def test_a_report_that_passes_fits_into_a_status(
    values: dict[str, Any], percentage: int | None, eta: int | None, time: str | None
) -> None:
    sent = body(
        progressPercentage=percentage,
        estimatedRemainingSeconds=eta,
        metrics=metrics(**values),
        lastUpdatedTime=time,
    )
    try:
        report = read_report(sent, 1, 1)
    except ValueError:
        return
    status = Status(progress=report.progress, checkpoint=report.checkpoint, metrics=dict(report.metrics))
    assert Status.model_validate(status.to_dict()) == status


def test_as_many_metrics_as_a_status_holds() -> None:
    many = {f"test_{number:03}": 1.0 for number in range(40)} | {"learning_rate": 1.0, "test_" + "x" * 100: 1.0}
    assert list(evaluations(many)) == [f"test_{number:03}" for number in range(32)]
