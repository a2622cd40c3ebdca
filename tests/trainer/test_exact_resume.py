"""Struck at a random moment and started again, a run ends with the same bytes as one that was left alone.

Weights, optimizer, position, best weights, predictions, metrics, and the log of metrics without times: on the CPU, with
dropout, with texts and images that are changed at random, by one process and by several. Real processes, real signals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import ExitCode
from support.corpora import pictures
from support.debian import ensure
from support.killing import (
    Blow,
    at_steps,
    in_encoding,
    in_evaluation,
    in_features,
    in_folder,
    in_preparation,
    in_results,
    in_save,
    kill,
    resumed_step,
    strike,
    term,
    what_is_left,
)
from support.methods import CASES, with_method
from support.models import save_model, sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run

pytestmark = pytest.mark.torch
EPOCH = 10
"""Optimizer steps, of whichever run."""
FIRST = at_steps("in the first epoch", 1, EPOCH - 2)
SECOND = at_steps("in the second epoch", EPOCH, 2 * EPOCH - 2)
EVALUATION, LATER_EVALUATION = in_evaluation(), in_evaluation(after=EPOCH + 4)
SAVE, RESULTS = in_save(), in_results()
ENCODING, PREPARATION, FEATURES = in_encoding(), in_preparation(), in_features()


@dataclass(frozen=True)
class Struck:
    """Which run, by how many processes, and what happens to it; one attempt more finishes it."""

    run: str
    processes: int
    blows: Sequence[Blow]

    @property
    def id(self) -> str:
        return f"{self.run}, {self.processes}: {', then '.join(map(str, self.blows))}"


TABLE = [
    Struck("words", 1, [kill(FIRST)]),
    Struck("words", 1, [term(SECOND)]),
    Struck("words", 1, [kill(SAVE)]),
    Struck("words", 1, [term(SAVE)]),
    Struck("words", 1, [kill(EVALUATION), term(LATER_EVALUATION)]),
    Struck("words", 1, [term(ENCODING), kill(PREPARATION)]),
    Struck("words", 1, [kill(SECOND), kill(RESULTS)]),
    Struck("words", 2, [term(FIRST), kill(SECOND)]),
    Struck("words", 2, [kill(SAVE), term(LATER_EVALUATION)]),
    Struck("words", 2, [term(SAVE), term(SECOND)]),
    Struck("words", 2, [kill(ENCODING), kill(EVALUATION)]),
    Struck("words", 3, [term(SECOND)]),
    Struck("compiled", 1, [kill(FIRST), term(SECOND)]),
    Struck("images", 1, [kill(FIRST), term(SECOND)]),
    Struck("images", 2, [term(FIRST), kill(SECOND)]),
    Struck("frozen", 1, [kill(FEATURES), term(SECOND)]),
    Struck("frozen", 2, [term(FEATURES), kill(SECOND)]),
]


def words(root: Path) -> ARun:
    """A small BERT with dropout over texts of which a rare label is oversampled; its evaluations are long."""
    rare = [row for row in sentences(240) if row[1] == "praise"][:10]
    rows = [row for row in sentences(159) if row[1] != "praise"]
    data = write_rows(root / "rows.csv", rows + rare)
    held = {"sources": [{"uri": write_rows(root / "held.csv", sentences(2400, seed=1)).as_uri()}]}
    tested = {"sources": [{"uri": write_rows(root / "test.csv", sentences(30, seed=2)).as_uri()}]}
    model = save_model(root / "model", dropout=0.1)
    run = a_run(root, data.as_uri(), model.as_uri(), learningRate=1e-3)
    return run.with_("dataset", validation=held, test=tested, dedup={"acrossSplits": False})


def changed_words(root: Path) -> ARun:
    changes = {"text": {"wordDropout": 0.2, "wordSwap": 0.2, "characterNoise": 0.1}}
    return words(root).with_("dataset", augment=changes, balance={"oversample": "Minority"})


def compiled_words(root: Path) -> ARun:
    ensure("g++")
    return changed_words(root).with_("training", compile="Always")


def frozen_words(root: Path) -> ARun:
    """On features that are computed once, of as many rows as `words` trains on."""
    run = words(root)
    data = write_rows(root / "even.csv", sentences(159))
    run = run.with_("dataset", train=[{"uri": data.as_uri()}])
    return with_method(run, type="freeze", freeze={"backbone": True})


def changed_images(root: Path) -> ARun:
    """A small ViT with dropout over digits that are cut, turned and mixed."""
    case = replace(CASES["image-classification-vit"], corpus=partial(pictures.digits, count=200))
    run = case.run(root, trainBatchSize=16, dropout=0.1, learningRate=1e-3)
    changes = {"image": {"randAugment": {}, "crop": {}, "mixup": 0.4, "cutmix": 1.0}}
    held = {side: {"fraction": 0.1, "stratify": False} for side in ("validation", "test")}
    return run.with_("dataset", augment=changes, **held)


MAKERS = {"words": changed_words, "compiled": compiled_words, "images": changed_images, "frozen": frozen_words}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ARun]:
    """The runs by their names, with data and models that are made once."""
    runs: dict[str, ARun] = {}

    def make(name: str) -> ARun:
        if name not in runs:
            run = MAKERS[name](tmp_path_factory.mktemp(name))
            run = run.with_("training", maxSteps=3 * EPOCH).with_("evaluation", strategy="Steps", steps=EPOCH + 2)
            runs[name] = run.with_("checkpoint", everySteps=4)
        return runs[name]

    return make


@pytest.fixture(scope="module")
def undisturbed(
    made: Callable[[str], ARun], tmp_path_factory: pytest.TempPathFactory, trainer: WarmTrainer
) -> Callable[[str, int], dict[str, Any]]:
    """What a run leaves that nobody disturbs; each is done once."""
    left: dict[tuple[str, int], dict[str, Any]] = {}

    def make(name: str, processes: int) -> dict[str, Any]:
        if (name, processes) not in left:
            run = in_folder(made(name), tmp_path_factory.mktemp("undisturbed")).with_processes(processes)
            ended = trainer.run(run)
            assert ended.code == ExitCode.DONE, ended.log
            left[name, processes] = what_is_left(run)
        return left[name, processes]

    return make


@pytest.mark.parametrize(
    ("struck", "seed"), [pytest.param(one, seed, id=f"{one.id}, seed {seed}") for seed, one in enumerate(TABLE)]
)
def test_it_ends_with_the_same_bytes(
    struck: Struck,
    seed: int,
    made: Callable[[str], ARun],
    undisturbed: Callable[[str, int], dict[str, Any]],
    trainer: WarmTrainer,
    tmp_path: Path,
) -> None:
    expected = undisturbed(struck.run, struck.processes)
    run = in_folder(made(struck.run), tmp_path).with_processes(struck.processes)
    run = strike(trainer, run, struck.blows, seed)
    saved = any(run.checkpoints.glob("step-*"))
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    assert (resumed_step(run) > 0) is saved
    assert what_is_left(run) == expected, ended.log


@pytest.mark.parametrize("name", MAKERS)
def test_the_runs_are_what_the_table_says(name: str, undisturbed: Callable[[str, int], dict[str, Any]]) -> None:
    """Three epochs of EPOCH steps, with three evaluations, of which the best weights are kept."""
    left = undisturbed(name, 1)
    steps = {line["step"]: line["epoch"] for line in left["metrics"] if "loss" in line}
    assert (steps[EPOCH], steps[2 * EPOCH], max(steps)) == (1.0, 2.0, 3 * EPOCH)
    assert [line["step"] for line in left["metrics"] if "validation_loss" in line] == [12, 24, 30]
    assert left["best"]
    assert {"model/model.safetensors", "checkpoint/model.safetensors", "checkpoint/optimizer.pt"} <= left.keys()
