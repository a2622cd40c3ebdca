"""What a person sees while a run goes on and at its end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from finetune_api.progress import Checkpoint, Failure, FailureClass, Outcome, Output, Progress, Result
from finetune_api.status import Condition, ConditionType, Phase, Status
from finetune_cli import screen

TIME = "2026-01-01T00:00:00Z"
TRAINING = Condition(type=ConditionType.RUNNING, status="True", reason="Training", last_transition_time=TIME)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(Status(), ("Preparing", ""), id="before anything is known"),
        pytest.param(
            Status(
                phase=Phase.RUNNING,
                conditions=[TRAINING],
                progress=Progress(step=3, total_steps=10, loss="0.51", eta_seconds=3723),
            ),
            ("Training", "step 3/10  loss 0.51  ETA 1:02:03"),
            id="in the middle",
        ),
        pytest.param(Status(phase=Phase.SUCCEEDED), ("Succeeded", ""), id="done"),
    ],
)
def test_stage_and_detail(status: Status, expected: tuple[str, str]) -> None:
    assert (screen.stage_of(status), screen.detail_of(status)) == expected


def test_without_a_terminal_each_stage_is_one_line(console: Console) -> None:
    running = Status(phase=Phase.RUNNING, conditions=[TRAINING], progress=Progress(percentage=30, loss="0.5"))
    with screen.RunScreen(console) as shown:
        shown.show(running)
        shown.show(running)
        shown.show(Status(phase=Phase.SUCCEEDED, progress=Progress(percentage=100)))
    assert printed(console).splitlines() == ["Training  30 %  loss 0.5", "Succeeded  100 %"]


def test_metrics_stand_beside_the_baseline(console: Console) -> None:
    console.print(screen.metrics_table({"test_accuracy": 0.9, "test_baseline_accuracy": 0.2, "validation_loss": 1.0}))
    lines = [line.split() for line in printed(console).splitlines()]
    assert lines == [["Test", "metric", "This", "model", "Baseline"], ["accuracy", "0.9000", "0.2000"]]


def test_an_interrupted_run_tells_the_command_that_goes_on(console: Console) -> None:
    outcome = Outcome(outcome=Result.PREEMPTED, checkpoint=Checkpoint(step=40))
    screen.print_interrupted(console, outcome, ["finetune", "run", "my job.yaml"])
    assert printed(console) == "Interrupted, saved at step 40. To go on:\n\n    finetune run 'my job.yaml'\n"


def test_a_gate_that_failed_tells_metrics_what_did_not_pass_and_where_the_model_is(
    console: Console, tmp_path: Path
) -> None:
    class_ = FailureClass.EVALUATION_GATE_FAILED
    failure = Failure(class_=class_, reason=class_, message="test_f1 is 0.5 (min 0.9)", hint="see evaluation.json")
    outcome = Outcome(outcome=Result.FAILED, failure=failure, metrics={"test_f1": 0.5})
    screen.print_gate_failed(console, tmp_path, outcome)
    lines = printed(console).replace("\n", " ")
    assert "f1" in lines
    assert "EvaluationGateFailed: test_f1 is 0.5 (min 0.9) see evaluation.json" in lines
    assert str(tmp_path / "model") in "".join(printed(console).split())


def test_a_failure_tells_class_reason_message_and_hint(console: Console) -> None:
    failure = Failure(
        class_=FailureClass.DATA_ERROR, reason="MissingColumn", message="no column 'txt'", hint="try text"
    )
    screen.print_failure(console, 65, failure, "")
    assert printed(console) == "DataError (MissingColumn): no column 'txt'\ntry text\n"


def test_a_model_that_was_pushed_tells_where_it_is(console: Console, tmp_path: Path) -> None:
    pushed = f"oci://registry.example/team-a/reviews@sha256:{'0' * 64}"
    outcome = Outcome(outcome=Result.SUCCEEDED, output=Output(uri=str(tmp_path), pushed_uri=pushed))
    screen.print_success(console, tmp_path, outcome)
    assert f"\nThe model was pushed to {pushed}\n" in printed(console)


def test_after_a_push_that_failed_the_model_is_said_to_be_kept(console: Console) -> None:
    screen.print_kept(console, Path("/runs/x"))
    assert printed(console) == "The model is kept in /runs/x/model; the same command again only pushes it.\n"
