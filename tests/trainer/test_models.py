"""What a run leaves in `model/` is loaded by transformers.pipeline and says what the run's evaluation said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from support.models import sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run

pytestmark = pytest.mark.torch


def finish(trainer: WarmTrainer, run: ARun) -> list[Row]:
    """Run to the end; returns the rows that it was tested on."""
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return load_data(RunConfig.model_validate(run.config)).sides[Side.TEST]


def classify(run: ARun, inputs: list[Any]) -> list[dict[str, Any]]:
    """Label and score of each input, as anybody would ask for them."""
    from transformers import pipeline

    classifier = pipeline("text-classification", str(run.folder / "model"))
    results: list[dict[str, Any]] = classifier(inputs, batch_size=16)
    return results


def check_predictions(run: ARun, tested: list[Row], predicted: list[dict[str, Any]]) -> None:
    """Exactly the rows in errors.jsonl are wrong, with the prediction and the score that stand there."""
    wrong = {
        row.number: (result["label"], pytest.approx(result["score"], abs=2e-3))
        for row, result in zip(tested, predicted, strict=True)
        if result["label"] != row.values["label"]
    }
    assert {error["row"]: (error["prediction"], error["score"]) for error in run.lines("errors.jsonl")} == wrong


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_every_architecture_learns_and_loads(
    kind: str, trainer: WarmTrainer, rows: Path, models: Callable[[str], Path], tmp_path: Path
) -> None:
    run = a_run(tmp_path, rows.as_uri(), models(kind).as_uri())
    tested = finish(trainer, run)
    metrics = run.read("evaluation.json")["metrics"]
    assert metrics["test_accuracy"] >= metrics["test_baseline_accuracy"] + 0.3
    check_predictions(run, tested, classify(run, [row.values["text"] for row in tested]))


@pytest.mark.parametrize("merge", [pytest.param(True, id="merged"), pytest.param(False, id="beside the base")])
def test_adapters_load(merge: bool, trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    """Also after the base model is gone from where the run found it, and on another machine."""
    run = small_run.with_("method", type="lora").with_("output", mergeAdapter=merge)
    run = run.with_("training", learningRate=6e-3)
    tested = finish(trainer, run)
    assert (run.folder / "model" / "adapter_config.json").exists() is not merge
    settings = [path.read_text() for path in (run.folder / "model").glob("*config.json")]
    assert not any(place in text for text in settings for place in (str(tmp_path), run.config["model"]["uri"][7:]))
    check_predictions(run, tested, classify(run, [row.values["text"] for row in tested]))


def test_pairs_of_texts(trainer: WarmTrainer, models: Callable[[str], Path], tmp_path: Path) -> None:
    """With spec.dataset.columns.textPair the label belongs to two texts."""
    import csv

    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        pairs = [(*text.split(" ", 2)[:1], text, label) for text, label in sentences(120)]
        csv.writer(file).writerows([("first", "second", "label"), *pairs])
    run = a_run(tmp_path, "./pairs.csv", models("bert").as_uri()).with_(
        "dataset", columns={"text": "first", "textPair": "second"}
    )
    tested = finish(trainer, run)
    inputs = [{"text": row.values["text"], "text_pair": row.values["textPair"]} for row in tested]
    check_predictions(run, tested, classify(run, inputs))


def test_long_texts_are_cut_and_counted(trainer: WarmTrainer, models: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [(f"{text} {'and so on ' * 40 * (number % 2)}", label) for number, (text, label) in enumerate(sentences(60))]
    write_rows(tmp_path / "rows.csv", rows)
    run = a_run(tmp_path, "./rows.csv", models("bert").as_uri(), maxSteps=2, maxLength=32)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    train = run.read("run.json")["data"]["rows"]["train"]
    assert f"of {train} train rows are longer than the model or maxLength takes, and were cut" in ended.log


def test_the_card_says_how_good_it_is_beside_the_baseline(trainer: WarmTrainer, small_run: ARun) -> None:
    run = small_run.with_("training", maxSteps=2)
    finish(trainer, run)
    card, metrics = (run.folder / "README.md").read_text(), run.read("evaluation.json")["metrics"]
    assert f"| accuracy | {metrics['test_accuracy']:.4f} |" in card
    assert f"guess from the training rows alone | {metrics['test_baseline_accuracy']:.4f} |" in card
    assert 'pipeline("text-classification", "model")' in card
