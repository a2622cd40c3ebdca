"""Adapters and several labels at the tasks on images and sound: what is saved answers as the run did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile
from PIL import Image

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.data.media import open_image
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from support.card_lines import answer_of
from support.cases_media import CASES
from support.corpora import pictures
from support.matrix import Bar, Case
from support.runs import ARun, WarmTrainer

pytestmark = pytest.mark.torch
BY_ID = {case.id: case for case in CASES}


def finished(run: ARun, trainer: WarmTrainer) -> list[Row]:
    """Run to the end; returns the rows that it was tested on."""
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return load_data(RunConfig.model_validate(run.config)).sides[Side.TEST]


def few_rows(case: Case) -> Case:
    corpus = case.corpus
    assert isinstance(corpus, partial)
    return replace(case, corpus=partial(corpus.func, **{**corpus.keywords, "count": 60}))


@pytest.mark.parametrize("merge", [pytest.param(True, id="merged"), pytest.param(False, id="beside the base")])
@pytest.mark.parametrize(
    "name",
    [
        "image-classification-vit",
        "audio-classification-wav2vec2-layer-norm",
        "automatic-speech-recognition-wav2vec2-layer-norm",
        "automatic-speech-recognition-whisper",
        "image-text-contrastive-clip",
        "multimodal-classification",
    ],
)
def test_adapters_load(name: str, merge: bool, trainer: WarmTrainer, tmp_path: Path) -> None:
    """With the classes of DESIGN's table, whether the adapter is merged or lies beside its base.

    Wav2Vec2 has adapters of its own kind, so that transformers does not put on one that lies beside it: it is merged.
    """
    case = few_rows(BY_ID[name])
    run = case.run(tmp_path, maxSteps=3).with_("method", type="lora", lora={"r": 4}).with_("output", mergeAdapter=merge)
    rows = finished(run, trainer)
    assert (run.folder / "model" / "adapter_config.json").exists() is not (merge or "wav2vec2" in name)
    ours = [case.said(line) for line in run.lines("predictions.jsonl")]
    theirs = case.ecosystem(run.folder / "model", rows)
    assert ours == [near(value) for value in theirs]


@pytest.mark.parametrize(
    "name",
    [
        "image-classification-vit",
        "audio-classification-wav2vec2",
        "automatic-speech-recognition-whisper",
        "image-text-contrastive-clip",
        "multimodal-classification",
    ],
)
def test_the_lines_of_the_card_run(
    name: str, trainer: WarmTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the run's folder, beside a picture and a clip."""
    case = few_rows(BY_ID[name])
    run = case.run(tmp_path, maxSteps=1)
    finished(run, trainer)
    (code,) = re.findall("```python\n(.*?)```", (run.folder / "README.md").read_text(), re.DOTALL)
    Image.new("RGB", (40, 30)).save(run.folder / "picture.png")
    soundfile.write(run.folder / "clip.wav", numpy.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    monkeypatch.chdir(run.folder)
    assert answer_of(code) is not None


def near(value: Any) -> Any:
    """Equal to every number that is near enough."""
    if isinstance(value, tuple):
        return tuple(near(item) for item in value)
    return pytest.approx(value, abs=2e-3) if isinstance(value, float) else value


def parts(folder: Path) -> list[dict[str, Any]]:
    """image, label: whatever of red, big and circle is true of what is drawn."""
    rows = pictures.captioned(folder, 240)
    return [{"image": row["image"], "label": _of(row["text"].split())} for row in rows]


def _of(words: Sequence[str]) -> list[str]:
    return [name for name in ("red", "big", "circle") if name in words]


def all_scores(model: Path, rows: Sequence[Row]) -> list[dict[str, float]]:
    from transformers import pipeline

    classifier = pipeline("image-classification", str(model))
    said = [classifier(open_image(row.values["image"], row.place), top_k=None) for row in rows]
    return [{answer["label"]: answer["score"] for answer in answers} for answers in said]


def test_several_labels_of_an_image(trainer: WarmTrainer, tmp_path: Path) -> None:
    """Each has its own probability, and the pipeline gives the same."""
    case = replace(
        BY_ID["image-classification-resnet"],
        corpus=parts,
        bar=Bar("f1_micro", least=0.5),
        dataset={"problemType": "MultiLabel"},
    )
    run = case.run(tmp_path)
    rows = finished(run, trainer)
    lines, theirs = run.lines("predictions.jsonl"), all_scores(run.folder / "model", rows)
    assert [line["scores"] for line in lines] == [pytest.approx(scores, abs=2e-3) for scores in theirs]
    metrics = run.read("evaluation.json")["metrics"]
    assert case.bar.holds(metrics["test_f1_micro"]), metrics
