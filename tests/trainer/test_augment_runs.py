"""Whole steps and runs with changed and balanced rows: the same however a step is cut, however many processes share it,
and after a stop; and what is evaluated is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import ExitCode
from support.cases_media import CASES as MEDIA
from support.cases_text import CASES as TEXTS
from support.matrix import Case
from support.models import FILLERS, sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run
from support.step_gradients import step_gradients

pytestmark = pytest.mark.torch
BATCH = 12
BY_ID = {case.id: case for case in (*MEDIA, *TEXTS)}
WORDS = {"wordDropout": 0.2, "wordSwap": 0.2, "characterNoise": 0.1}
PICTURES = {"randAugment": {}, "crop": {}, "horizontalFlip": 0.5, "mixup": 0.4, "cutmix": 1.0}
CLIPS = {"noise": {}, "pitch": {}, "speed": {}, "specAugment": {}}
BALANCED = {"classWeights": "Balanced"}


def few(name: str) -> Case:
    """The case with rows that are soon decoded."""
    case = BY_ID[name]
    if not isinstance(case.corpus, partial):
        return case
    return replace(case, corpus=partial(case.corpus.func, **{**case.corpus.keywords, "count": 60}))


def in_folder(run: ARun, root: Path) -> ARun:
    """The same run in another folder."""
    moved = {"folder": str(root / "run"), "checkpointFolder": str(root / "run" / "checkpoints")}
    return ARun(root, {**run.config, **moved})


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        pytest.param("text-classification bert", {"augment": {"text": WORDS}, "balance": BALANCED}, id="words"),
        pytest.param("token-classification bert", {"augment": {"text": WORDS}, "balance": BALANCED}, id="tags"),
        pytest.param(
            "image-classification-vit", {"augment": {"image": PICTURES}, "balance": BALANCED}, id="mixed images"
        ),
        pytest.param("audio-classification-wav2vec2", {"augment": {"audio": CLIPS}}, id="clips"),
    ],
)
def test_the_gradient_of_a_step_does_not_depend_on_the_cut(
    name: str, dataset: Mapping[str, Any], trainer: WarmTrainer, tmp_path: Path
) -> None:
    """In one piece, or in three by two processes: divided by the sum of the weights of all its rows."""
    import torch

    case = few(name)
    run = case.run(tmp_path, trainBatchSize=BATCH, maxSteps=1).with_("dataset", **dataset)
    whole = step_gradients(trainer, run, BATCH)
    assert any(bool(gradient.any()) for gradient in whole.values())
    found = step_gradients(trainer, run, 4, processes=2)
    assert found.keys() == whole.keys()
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for gradient, expected in ((found[key], whole[key]) for key in whole):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=2e-5 * largest)


@pytest.fixture(scope="module")
def still(trainer: WarmTrainer, tmp_path_factory: pytest.TempPathFactory, models: Any) -> ARun:
    """A run that hardly moves its weights."""
    root = tmp_path_factory.mktemp("still")
    data = write_rows(root / "rows.csv", uneven(60, 15))
    run = a_run(root, data.as_uri(), models("bert").as_uri(), maxSteps=1, learningRate=1e-9, dropout=0)
    assert trainer.run(run).code == ExitCode.DONE
    return run


@pytest.mark.parametrize("dataset", [{"augment": {"text": WORDS}}, {"balance": BALANCED}], ids=["augment", "balance"])
def test_what_is_evaluated_is_not_touched(dataset: Any, trainer: WarmTrainer, tmp_path: Path, still: ARun) -> None:
    """Training has another loss, and evaluation the same."""
    changed = in_folder(still, tmp_path / "changed").with_("dataset", **dataset)
    assert trainer.run(changed).code == ExitCode.DONE
    (before, *evaluated), (after, *evaluated_so) = (losses(run) for run in (still, changed))
    assert abs(before - after) > 1e-5
    assert evaluated_so == pytest.approx(evaluated, rel=1e-6)


def losses(run: ARun) -> list[float]:
    """Of the only step, and of both evaluations."""
    (step,) = [line["loss"] for line in run.lines("metrics.jsonl") if "loss" in line]
    metrics = run.read("outcome.json")["metrics"]
    return [step, metrics["validation_loss"], metrics["test_loss"]]


def uneven(many: int, few: int) -> list[tuple[str, str]]:
    """Rows of two labels, one of which is rare."""
    rows = sentences(3 * (many + few) + 30)
    praise = [row for row in rows if row[1] == "praise"][:few]
    return [row for row in rows if row[1] == "invoice"][:many] + praise


@pytest.mark.parametrize("balance", [BALANCED, {"oversample": "Minority"}], ids=["class weights", "oversampling"])
def test_a_rare_class_is_found_more_often(balance: Any, trainer: WarmTrainer, tmp_path: Path, imbalanced: ARun) -> None:
    """Its recall is higher than without, and run.json has the numbers."""
    run = in_folder(imbalanced, tmp_path / "balanced").with_("dataset", balance=balance)
    assert trainer.run(run).code == ExitCode.DONE
    recalls = [recall(one) for one in (imbalanced, run)]
    assert recalls[1] >= recalls[0] + 0.3, recalls
    assert "balance" not in imbalanced.read("run.json")["data"]
    said = run.read("run.json")["data"]["balance"]
    ((kind, numbers),) = said.items()
    assert kind == next(iter(balance))
    if kind == "oversample":
        assert numbers["rare"]["rows"] < numbers["rare"]["seen"] == numbers["usual"]["seen"] == numbers["usual"]["rows"]
    else:
        assert numbers["usual"] < 1 < numbers["rare"]


def recall(run: ARun) -> float:
    """The share of the rare rows that are found."""
    said = {row["row"]: row["label"] for row in run.lines("predictions.jsonl")}
    rare = [number for number in said if number % 2 == 0]
    return sum(said[number] == "rare" for number in rare) / len(rare)


@pytest.fixture(scope="module")
def imbalanced(trainer: WarmTrainer, tmp_path_factory: pytest.TempPathFactory, models: Any) -> ARun:
    """A run over one rare row to nine usual ones, whose words say which only more often than not."""
    import random

    root, draw = tmp_path_factory.mktemp("imbalanced"), random.Random(3)

    def text(rare: bool) -> str:
        sure, other = ("thanks", "bill") if rare else ("bill", "thanks")
        said = draw.choices((sure, other), (0.75, 0.25), k=5) + draw.choices(FILLERS, k=3)
        return " ".join(draw.sample(said, len(said)))

    training = [(text(number % 10 == 0), "rare" if number % 10 == 0 else "usual") for number in range(300)]
    tested = [(text(number % 2 == 0), "rare" if number % 2 == 0 else "usual") for number in range(1, 81)]
    data, test = write_rows(root / "rows.csv", training), write_rows(root / "test.csv", tested)
    run = a_run(root, data.as_uri(), models("bert").as_uri(), numTrainEpochs=6, learningRate=3e-3, dropout=0)
    run = run.with_("dataset", test={"sources": [{"uri": test.as_uri()}]})
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return run
