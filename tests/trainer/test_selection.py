"""The best evaluation is the one that the manifest asks for, and training stops when nothing better comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.evaluation import EarlyStopping
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.objective import check_smoothing
from finetune_trainer.tasks.base import Better, Goal
from finetune_trainer.training.selection import Standing, check_goal, goal_of, value_of
from support.runs import a_run

ACCURACY = Goal("accuracy")
LOSS = Goal("loss", Better.LOWER)
OWN = Goal("own")


def after(values: list[float], goal: Goal = ACCURACY, keep: int = 1, threshold: float = 0.0) -> Standing:
    """The standing after evaluations at steps 1, 2 and so on."""
    standing, stopping = Standing(), EarlyStopping(patience=2, threshold=threshold)
    for step, value in enumerate(values, start=1):
        standing = standing.after(step, value, goal, keep, stopping)
    return standing


@pytest.mark.parametrize(
    ("values", "goal", "keep", "steps"),
    [
        pytest.param([0.5, 0.7, 0.6], ACCURACY, 1, [2], id="the highest"),
        pytest.param([0.5, 0.7, 0.6], ACCURACY, 2, [2, 3], id="the two highest"),
        pytest.param([0.5, 0.7, 0.6], LOSS, 2, [1, 3], id="the lowest"),
        pytest.param([0.7, 0.7, 0.7], ACCURACY, 2, [1, 2], id="the earlier of equals"),
        pytest.param([0.5, 0.7], ACCURACY, 0, [2], id="known, also where no weights are kept"),
    ],
)
def test_ranking(values: list[float], goal: Goal, keep: int, steps: list[int]) -> None:
    standing = after(values, goal, keep)
    assert standing.steps == steps
    assert standing.best == {"metric": f"validation_{goal.metric}", "value": values[steps[0] - 1], "step": steps[0]}


@pytest.mark.parametrize(
    ("values", "threshold", "stale"),
    [
        pytest.param([0.5], 0.0, 0, id="the first is always better than nothing"),
        pytest.param([0.5, 0.6, 0.7], 0.0, 0, id="better and better"),
        pytest.param([0.5, 0.5], 0.0, 1, id="equal is not better"),
        pytest.param([0.5, 0.4, 0.3], 0.0, 2, id="worse and worse"),
        pytest.param([0.5, 0.4, 0.6], 0.0, 0, id="a better one starts anew"),
        pytest.param([0.5, 0.55, 0.6], 0.1, 2, id="better by less than the threshold"),
    ],
)
def test_patience(values: list[float], threshold: float, stale: int) -> None:
    standing = after(values, threshold=threshold)
    assert standing.stale == stale
    assert standing.is_enough(EarlyStopping(patience=2)) is (stale == 2)
    assert not standing.is_enough(None)


def asking(metric: str | None, task: str = "text-classification", tmp: Path = Path("/tmp")) -> RunConfig:
    run = a_run(tmp, "./rows.csv", "./model").with_("evaluation", metricForBestModel=metric)
    return RunConfig.model_validate({**run.config, "task": task})


@pytest.mark.parametrize(
    ("metric", "task", "goal"),
    [
        pytest.param(None, "text-classification", OWN, id="the task's own"),
        pytest.param("f1_macro", "text-classification", Goal("f1_macro"), id="bare"),
        pytest.param("validation_loss", "text-classification", LOSS, id="with our prefix"),
        pytest.param("eval_loss", "text-classification", LOSS, id="with that of transformers"),
        pytest.param("rmse", "text-regression", Goal("rmse", Better.LOWER), id="an error"),
        pytest.param("perplexity", "text-generation", Goal("perplexity", Better.LOWER), id="perplexity"),
        pytest.param("cer", "automatic-speech-recognition", Goal("cer", Better.LOWER), id="an error rate"),
        pytest.param(
            "image_to_text_median_rank",
            "image-text-contrastive",
            Goal("image_to_text_median_rank", Better.LOWER),
            id="a rank",
        ),
    ],
)
def test_goal(metric: str | None, task: str, goal: Goal) -> None:
    config = asking(metric, task)
    check_goal(config)
    assert goal_of(config, OWN) == goal


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="text-classification has no metric 'validation_f1_makro'") as caught:
        check_goal(asking("validation_f1_makro"))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean f1_macro? it has: accuracy, f1_macro, loss")
    assert "baseline" not in caught.value.hint


def test_a_metric_that_the_rows_do_not_define_is_told() -> None:
    with pytest.raises(ConfigError, match="the validation rows do not define 'roc_auc'"):
        value_of({"accuracy": 1.0}, Goal("roc_auc"), asking("roc_auc"))
    assert value_of({"accuracy": 1.0}, OWN, asking(None)) is None


@pytest.mark.parametrize(
    ("task", "model", "problem", "refused"),
    [
        pytest.param("text-classification", "bert", "SingleLabel", False, id="one label"),
        pytest.param("text-classification", "bert", "MultiLabel", True, id="several labels"),
        pytest.param("token-classification", "bert", "SingleLabel", False, id="tags"),
        pytest.param("summarization", "t5", "SingleLabel", False, id="writing"),
        pytest.param("automatic-speech-recognition", "whisper", "SingleLabel", False, id="writing what is heard"),
        pytest.param("automatic-speech-recognition", "wav2vec2", "SingleLabel", True, id="ctc"),
        pytest.param("text-regression", "bert", "SingleLabel", True, id="numbers"),
        pytest.param("question-answering", "bert", "SingleLabel", True, id="spans"),
        pytest.param("fill-mask", "bert", "SingleLabel", True, id="masks"),
        pytest.param("preference-optimization", "gpt2", "SingleLabel", True, id="preferences"),
        pytest.param("image-text-contrastive", "clip", "SingleLabel", True, id="pairs"),
    ],
)
def test_label_smoothing_is_refused_where_it_means_nothing(
    task: str, model: str, problem: str, refused: bool, tmp_path: Path
) -> None:
    run = a_run(tmp_path, "./rows.csv", "./model", labelSmoothing=0.1).with_("dataset", problemType=problem)
    config = RunConfig.model_validate({**run.config, "task": task})
    if refused:
        with pytest.raises(ConfigError, match=r"spec\.training\.labelSmoothing"):
            check_smoothing(config, ModelFolder(tmp_path, model))
    else:
        check_smoothing(config, ModelFolder(tmp_path, model))
    check_smoothing(
        RunConfig.model_validate(a_run(tmp_path, "./rows.csv", "./model").config), ModelFolder(tmp_path, "")
    )
