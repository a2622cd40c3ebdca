"""What trainer and operator say to each other survives the way: reports, outcomes, exit codes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.progress import (
    BUDGETS,
    CLASS_OF_EXIT_CODE,
    Checkpoint,
    ExitCode,
    Failure,
    FailureClass,
    Outcome,
    Progress,
    ProgressReport,
    Result,
    failure_class,
    report,
)

FAILURE = Failure(class_=FailureClass.DATA_ERROR, reason="MissingColumn", message="no column 'txt'", hint="use text")


@given(
    log_tail=st.text(max_size=8192),
    message=st.text(max_size=2048),
    hint=st.text(max_size=2048),
)
def test_a_termination_message_fits_and_can_be_read(log_tail: str, message: str, hint: str) -> None:
    """The kubelet cuts at 4,096 bytes, in the middle of the JSON; so we cut first, whatever the text is."""
    failure = FAILURE.model_copy(update={"log_tail": log_tail, "message": message, "hint": hint})
    text = Outcome(outcome=Result.FAILED, failure=failure).termination_message()
    read = Outcome.model_validate_json(text)
    assert len(text.encode()) <= 4096
    assert read.failure is not None
    assert message.endswith(read.failure.message)


def test_a_short_outcome_is_kept_whole() -> None:
    outcome = Outcome(outcome=Result.FAILED, failure=FAILURE, metrics={"test_accuracy": 0.5})
    assert Outcome.model_validate_json(outcome.termination_message()) == outcome


def test_the_log_goes_before_the_message() -> None:
    failure = FAILURE.model_copy(update={"log_tail": "x" * 8000})
    read = Outcome.model_validate_json(Outcome(outcome=Result.FAILED, failure=failure).termination_message())
    assert read.failure is not None
    assert (read.failure.message, read.failure.hint) == (FAILURE.message, FAILURE.hint)
    assert 3000 < len(read.failure.log_tail or "") < 4000


def test_a_report_has_the_form_of_the_kubeflow_protocol() -> None:
    progress = Progress(percentage=40, step=4, total_steps=10, epoch="1.20", loss="0.5123", eta_seconds=7)
    assert report(progress, {"checkpoint_step": 3}) == {
        "trainerStatus": {
            "progressPercentage": 40,
            "estimatedRemainingSeconds": 7,
            "metrics": [
                {"name": "step", "value": "4"},
                {"name": "total_steps", "value": "10"},
                {"name": "epoch", "value": "1.20"},
                {"name": "loss", "value": "0.5123"},
                {"name": "checkpoint_step", "value": "3"},
            ],
        }
    }


def test_a_report_comes_back_as_the_same_progress() -> None:
    progress = Progress(percentage=40, step=4, total_steps=10, epoch="1.20", loss="0.5123", eta_seconds=7)
    status = ProgressReport.model_validate(report(progress, {"resumed_from_step": 3})).trainer_status
    assert (status.progress(), status.checkpoint()) == (progress, Checkpoint(resumed_from_step=3))


def test_a_report_of_transformers_own_callback_is_understood() -> None:
    body = {
        "trainerStatus": {
            "progressPercentage": 12,
            "metrics": [
                {"name": "current_step", "value": "5"},
                {"name": "loss", "value": "nan"},
                {"name": "epoch", "value": "0.5"},
            ],
            "unknownField": 1,
        }
    }
    assert ProgressReport.model_validate(body).trainer_status.progress() == Progress(
        percentage=12, step=5, epoch="0.50"
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param(65, FailureClass.DATA_ERROR, id="bad data"),
        pytest.param(78, FailureClass.CONFIG_ERROR, id="bad configuration"),
        pytest.param(75, FailureClass.PREEMPTED, id="saved and left"),
        pytest.param(137, FailureClass.OUT_OF_MEMORY_HOST, id="killed"),
        pytest.param(143, FailureClass.PREEMPTED, id="terminated before our handler"),
        pytest.param(1, FailureClass.CODE_ERROR, id="a traceback"),
        pytest.param(139, FailureClass.CODE_ERROR, id="a segmentation fault"),
    ],
)
def test_an_exit_code_has_one_class(code: int, expected: FailureClass) -> None:
    assert failure_class(code) == expected


def test_every_class_has_a_budget_and_every_code_a_class() -> None:
    assert set(BUDGETS) == set(FailureClass)
    assert set(CLASS_OF_EXIT_CODE) == set(ExitCode) - {ExitCode.DONE}


def test_documents_are_plain_json() -> None:
    assert json.loads(json.dumps(FAILURE.to_dict())) == {
        "class": "DataError",
        "reason": "MissingColumn",
        "message": "no column 'txt'",
        "hint": "use text",
    }
