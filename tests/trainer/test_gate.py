"""The gate: what passes, what fails in which words; a run that fails keeps its model and is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.gate import Bound
from finetune_api.progress import ExitCode, FailureClass, Outcome, Result
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import digest_of, files_below
from finetune_trainer.gate import Judged, check_gate, failure_of, judge
from support.runs import ARun, WarmTrainer, a_run

METRICS = {"test_accuracy": 0.8, "test_loss": 0.5}


def gate_of(**bounds: dict[str, float]) -> list[Bound]:
    return [Bound(metric=f"test_{name}", **limits) for name, limits in bounds.items()]


@pytest.mark.parametrize(
    ("bound", "value", "passed"),
    [
        pytest.param({"min": 0.8}, 0.8, True, id="the least value passes"),
        pytest.param({"min": 0.8}, 0.79, False, id="less does not"),
        pytest.param({"max": 0.5}, 0.5, True, id="the greatest value passes"),
        pytest.param({"max": 0.5}, 0.51, False, id="more does not"),
        pytest.param({"min": 0.4, "max": 0.5}, 0.45, True, id="between both"),
        pytest.param({"min": 0.4, "max": 0.5}, 0.3, False, id="below both"),
        pytest.param({"min": 0.4}, float("nan"), False, id="no number"),
    ],
)
def test_what_passes(bound: dict[str, float], value: float, passed: bool) -> None:
    assert Judged(Bound(metric="test_accuracy", **bound), value).passed == passed


def test_a_gate_that_holds_ends_nothing() -> None:
    assert failure_of(judge(gate_of(accuracy={"min": 0.8}, loss={"max": 0.5}), METRICS)) is None
    assert failure_of([]) is None


def test_a_gate_that_fails_names_each_metric_with_value_and_bound() -> None:
    judged = judge(gate_of(accuracy={"min": 0.9, "max": 1}, loss={"max": 0.1}, roc_auc={"min": 0.5}), METRICS)
    failure = failure_of(judged)
    assert failure is not None
    assert (failure.exit_code, failure.failure_class) == (76, FailureClass.EVALUATION_GATE_FAILED)
    assert failure.message == (
        "the model did not pass the evaluation gate: test_accuracy is 0.8 (min 0.9, max 1);"
        " test_loss is 0.5 (max 0.1); test_roc_auc was not measured (min 0.5)"
    )
    assert "cannot be a gate" in (failure.hint or "")
    assert judged[0].to_dict() == {"metric": "test_accuracy", "min": 0.9, "max": 1.0, "value": 0.8, "passed": False}


def a_config(task: str, metric: str, **dataset: Any) -> RunConfig:
    run = a_run(Path("/runs/quick"), "./rows.csv", "./model").with_("evaluation", gate=[{"metric": metric, "min": 0}])
    return RunConfig.model_validate({**run.with_("dataset", **dataset).config, "task": task})


@pytest.mark.parametrize(
    ("task", "metric", "hint"),
    [
        pytest.param("text-classification", "test_f1_marco", "did you mean test_f1_macro?", id="misspelt"),
        pytest.param("text-classification", "f1_macro", "did you mean test_f1_macro?", id="without its side"),
        pytest.param("text-classification", "test_f1_micro", "did you mean test_f1_macro?", id="of several labels"),
        pytest.param("text-regression", "coverage", "it has: test_baseline_mse, test_loss, ", id="of another task"),
        pytest.param("automatic-speech-recognition", "test_were", "did you mean test_wer?", id="speech"),
    ],
)
def test_a_metric_that_the_task_never_has_is_refused_before_training(task: str, metric: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_gate(a_config(task, metric))
    assert f"spec.evaluation.gate[0].metric: {task} has no test metric {metric!r}" == caught.value.message
    assert (caught.value.hint or "").startswith(hint)


def test_several_labels_have_metrics_of_their_own() -> None:
    check_gate(a_config("text-classification", "test_f1_micro", problemType="MultiLabel"))


@pytest.mark.torch
def test_a_run_that_does_not_pass_ends_with_76_keeps_its_model_and_is_not_done_again(
    trainer: WarmTrainer, small_run: ARun
) -> None:
    gate = [{"metric": "test_accuracy", "min": 0.0}, {"metric": "test_loss", "max": -1.0}]
    run = small_run.with_("training", maxSteps=3, numTrainEpochs=None).with_("evaluation", gate=gate)
    ended = trainer.run(run)
    assert ended.code == ExitCode.EVALUATION_GATE_FAILED, ended.log
    failure, evaluation = ended.outcome.failure, run.read("evaluation.json")
    assert failure is not None
    assert (ended.outcome.outcome, failure.class_, failure.reason) == (
        Result.FAILED,
        FailureClass.EVALUATION_GATE_FAILED,
        "EvaluationGateFailed",
    )
    loss = evaluation["metrics"]["test_loss"]
    assert f"test_loss is {loss:.6g} (max -1)" in failure.message
    assert [(one["metric"], one["passed"]) for one in evaluation["gate"]] == [
        ("test_accuracy", True),
        ("test_loss", False),
    ]
    model = run.folder / "model"
    digest = digest_of({str(path.relative_to(model)): path for path in files_below(model)})
    assert ended.outcome.output is not None
    assert (ended.outcome.output.uri, ended.outcome.output.digest) == (str(run.folder), f"sha256:{digest}")
    assert ended.outcome.metrics["test_loss"] == loss
    status = run.read("status.json")
    assert (status["phase"], status["failure"]["reason"]) == ("Failed", "EvaluationGateFailed")

    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    again = trainer.run(run.with_("job", attempt=2))
    assert again.code == ExitCode.EVALUATION_GATE_FAILED, again.log
    assert "holds the finished run; nothing to do" in again.log
    assert again.outcome == Outcome.model_validate(run.read("outcome.json"))
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()} == before
