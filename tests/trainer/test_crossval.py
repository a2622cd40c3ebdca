"""Cross-validation: each training row is tested once, by a run that did not learn from it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy
import pytest

from finetune_api.progress import ExitCode, FailureClass
from finetune_trainer.crossval import doubtful_rows, status_metrics, summarize
from support.models import LABELS, sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run
from support.tasks import rows_of

pytestmark = pytest.mark.torch
FOLDS = 3


def write_fold(folder: Path, number: int, **metrics: float) -> None:
    path = folder / "folds" / str(number) / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"metrics": {f"test_{name}": value for name, value in metrics.items()}}))


def test_mean_and_spread_of_what_every_fold_has(tmp_path: Path) -> None:
    write_fold(tmp_path, 1, accuracy=0.8, loss=0.5)
    write_fold(tmp_path, 2, accuracy=0.9, loss=0.3, roc_auc=0.7)
    summary = summarize(tmp_path)
    assert summary == {
        "folds": [
            {"fold": 1, "metrics": {"accuracy": 0.8, "loss": 0.5}},
            {"fold": 2, "metrics": {"accuracy": 0.9, "loss": 0.3, "roc_auc": 0.7}},
        ],
        "mean": {"accuracy": pytest.approx(0.85), "loss": pytest.approx(0.4)},
        "std": {"accuracy": pytest.approx(0.0707, abs=1e-4), "loss": pytest.approx(0.1414, abs=1e-4)},
    }
    assert list(status_metrics(summary, "loss")) == [
        "cv_loss_mean",
        "cv_loss_std",
        "cv_accuracy_mean",
        "cv_accuracy_std",
    ]


def test_rows_with_a_wrong_label_are_found_and_others_are_not() -> None:
    """A model that is right nine times in ten disagrees with ten flipped labels of two hundred."""
    draw = numpy.random.default_rng(3)
    truth = draw.integers(0, 3, 200)
    given = truth.copy()
    given[:10] = (given[:10] + 1) % 3
    scores = numpy.full((200, 3), 0.05) + draw.random((200, 3)) * 0.05
    scores[numpy.arange(200), truth] += 0.8
    rows = rows_of([{"text": str(number), "label": LABELS[label]} for number, label in enumerate(given)])
    found = doubtful_rows(rows, given, scores, LABELS)
    numbers = [int(row["text"]) for row in found]
    assert len(numbers) >= 8
    assert set(numbers) <= set(range(10))
    said = [(row["given"], row["suggested"]) for row in found]
    assert said == [(LABELS[given[number]], LABELS[truth[number]]) for number in numbers]


@pytest.fixture
def wrong_labels() -> list[str]:
    return [text for text, _ in sentences(240)[:9]]


@pytest.fixture
def cross_validated(tmp_path: Path, models: Callable[[str], Path], wrong_labels: list[str]) -> ARun:
    """A run with three folds over rows of which nine have another label than their words say."""
    rows = [
        (text, LABELS[(LABELS.index(label) + 1) % 3] if text in wrong_labels else label)
        for text, label in sentences(240)
    ]
    data = write_rows(tmp_path / "rows.csv", rows)
    run = a_run(tmp_path / "one", data.as_uri(), models("bert").as_uri(), numTrainEpochs=10)
    return run.with_("evaluation", crossValidation={"folds": FOLDS})


def test_a_run_with_folds(cross_validated: ARun, trainer: WarmTrainer, wrong_labels: list[str]) -> None:
    """Every training row is tested by one fold; mean and spread stand in the status; wrong labels are found; stopped
    in the second fold it goes on to the same result without doing the first again.
    """
    run = cross_validated
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    status, summary = run.read("status.json"), run.read("cross_validation.json")
    accuracies = [fold["metrics"]["accuracy"] for fold in summary["folds"]]
    assert len(accuracies) == FOLDS
    assert min(accuracies) > 0.7
    assert status["metrics"]["cv_accuracy_mean"] == pytest.approx(fmean(accuracies))
    assert status["metrics"]["cv_accuracy_std"] == pytest.approx(stdev(accuracies))
    assert status["metrics"]["test_accuracy"] > 0.7
    assert status["progress"]["percentage"] == 100

    tested = [set(numpy.load(run.folder / "folds" / f"{n}" / "scores.npz")["places"].tolist()) for n in (1, 2, 3)]
    assert sum(map(len, tested)) == len(set.union(*tested)) == run.read("run.json")["data"]["rows"]["train"]

    issues = run.lines("label_issues.jsonl")
    right = {row["text"] for row in issues} & set(wrong_labels)
    assert len(right) > 5 * len(issues) * len(wrong_labels) / 240, "no better than naming rows at random"
    assert [warned["code"] for warned in run.read("profile.json")["warnings"]][-1] == "LikelyLabelErrors"

    stopped = stop_in_second_fold(run, trainer)
    assert stopped.read("cross_validation.json") == summary
    assert stopped.weights() == run.weights()


def stop_in_second_fold(run: ARun, trainer: WarmTrainer) -> ARun:
    """The same run in another folder, stopped in its second fold and run again."""
    root = run.root.parent / "two"
    moved = {"folder": str(root / "run"), "checkpointFolder": str(root / "run" / "checkpoints")}
    other = ARun(root, {**run.config, **moved})
    attempt = trainer.start(other)
    log = other.folder / "folds" / "2" / "metrics.jsonl"
    attempt.until(lambda: log.exists() and '"step": 10,' in log.read_text(), "step 10 of the second fold")
    progress: dict[str, Any] = other.read("status.json")["progress"]
    assert 25 < progress["percentage"] < 50
    attempt.send(signal.SIGTERM)
    ended = attempt.end()
    assert (ended.code, ended.outcome.failure and ended.outcome.failure.class_) == (75, FailureClass.PREEMPTED), (
        ended.log
    )
    first = (other.folder / "folds" / "1" / "evaluation.json").stat().st_mtime_ns
    ended = trainer.run(other)
    assert ended.code == ExitCode.DONE, ended.log
    assert (other.folder / "folds" / "1" / "evaluation.json").stat().st_mtime_ns == first
    return other
