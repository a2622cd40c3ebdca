"""A run with everything on that prepares data: what is learned from is clean, and run.json and the log tell what was
done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile

from finetune_api.clean import Clean
from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer import predict
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.preflight import check_inputs
from finetune_trainer.tasks.audio_classification import AudioClassification
from support import zoo
from support.corpora.files import write_json_lines
from support.models import LABELS, sentences
from support.runs import ARun, WarmTrainer, a_run
from support.tasks import open_task

pytestmark = pytest.mark.torch

CLEAN = {"stripHtml": True, "collapseWhitespace": True, "normalizeUnicode": "NFKC", "minChars": 5, "maxChars": 500}
USERS = 30


def some_rows() -> list[dict[str, Any]]:
    """300 good rows of 30 users, and ten that are bad in one way each."""
    good = [
        {"text": text, "label": label, "user": f"u{number % USERS}"}
        for number, (text, label) in enumerate(sentences(300))
    ]
    first = good[0]
    bad = [
        {**first},
        {**first, "text": f"<p>{first['text']}</p>"},
        {**first, "text": first["text"].replace(" ", " \t ").upper()},
        {**first, "label": "praise" if first["label"] != "praise" else "invoice"},
        {**first, "text": ""},
        {**first, "text": "<br>"},
        {**first, "text": "ab"},
        {**first, "text": "ab" * 500},
        {**first, "text": "thanks \x00 schÃ¶n"},
        {**first, "text": "the ｐａｒｃｅｌ came"},  # noqa: RUF001
    ]
    return good + bad


@pytest.fixture
def run(small_run: ARun) -> ARun:
    write_json_lines(small_run.root / "rows.jsonl", some_rows())
    by_user = {side: {"fraction": 0.2, "groupBy": "user"} for side in ("validation", "test")}
    return (
        small_run.with_("dataset", train=[{"uri": "./rows.jsonl"}], clean=CLEAN, dedup={"method": "MinHash"}, **by_user)
        .with_("training", numTrainEpochs=2)
        .with_("method", shots=8)
    )


def test_everything_at_once(trainer: WarmTrainer, run: ARun, capsys: pytest.CaptureFixture[str]) -> None:
    ended = trainer.run(run.with_processes(2))
    assert ended.code == ExitCode.DONE, ended.log
    data = run.read("run.json")["data"]
    assert data["cleaning"] == {
        "fixEncoding": {"changed": 1, "dropped": 0},
        "stripHtml": {"changed": 2, "dropped": 0},
        "removeControl": {"changed": 1, "dropped": 0},
        "normalizeUnicode": {"changed": 1, "dropped": 0},
        "collapseWhitespace": {"changed": 2, "dropped": 0},
        "dropEmpty": {"changed": 0, "dropped": 2},
        "minChars": {"changed": 0, "dropped": 1},
        "maxChars": {"changed": 0, "dropped": 1},
    }
    assert (data["dedup"]["method"], data["dedup"]["withinTraining"]) == ("MinHash", 3)
    assert data["dedup"]["conflictingLabels"] == 1
    assert {name: data["splits"][name] for name in ("by", "column")} == {"by": "Group", "column": "user"}
    assert sum(data["splits"]["groups"].values()) == USERS
    assert data["shots"] == {"perClass": 8, "rows": 24}
    assert data["rows"]["train"] == 24
    for line in (
        "cleaning, dropEmpty: 2 rows dropped",
        "duplicates: 3 rows dropped (MinHash)",
        "few rows: 24 are trained on, at most 8 of each class",
    ):
        assert ended.log.count(line) == 1, ended.log
    assert predicted(run, "<p>thanks  &amp; great</p>", capsys) == predicted(run, "thanks & great", capsys)


def predicted(run: ARun, text: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert predict.main([str(run.folder), "--input", f"text={text}"]) == ExitCode.DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] in LABELS
    return answer


def a_hearing_run(folder: Path, rates: Sequence[int], **dataset: Any) -> RunConfig:
    """Over a clip of a second of each rate, half of it silence; the same clips are held out."""
    for number, rate in enumerate(rates):
        tone = numpy.sin(numpy.arange(rate // 2) * 0.3) * (0.5 + number / 10)
        soundfile.write(folder / f"{number}.wav", numpy.concatenate([numpy.zeros(rate // 2), tone]), rate)
    records = [{"audio": f"{number}.wav", "label": str(number % 2)} for number in range(len(rates))]
    write_json_lines(folder / "rows.jsonl", records)
    given = {"sources": [{"uri": "./rows.jsonl"}]}
    run = a_run(folder, "./rows.jsonl", "./model").with_(
        "dataset", test=given, validation=given, dedup={"acrossSplits": False}, **dataset
    )
    return RunConfig.model_validate({**run.config, "task": "audio-classification"})


def test_clips_of_another_rate_than_the_models_are_counted(tmp_path: Path) -> None:
    zoo.save("wav2vec2", tmp_path / "model")
    data = check_inputs(a_hearing_run(tmp_path, [8000, 16000, 16000, 8000, 44100]), None).data
    assert data["sampleRates"] == {"8000": 6, "16000": 6, "44100": 3}
    assert data["cleaning"] == {"dropEmpty": {"changed": 0, "dropped": 0}, "resample": {"changed": 9, "dropped": 0}}


def test_silence_is_not_heard_and_the_same_is_done_to_what_is_predicted(tmp_path: Path) -> None:
    """The samples that a task encodes are those that cleaning left, in training and in `finetune predict`."""
    config = a_hearing_run(tmp_path, [16000] * 4, clean={"audio": {"trimSilence": 40}})
    data = load_data(config)
    assert data.record()["cleaning"]["trimSilence"] == {"changed": 12, "dropped": 0}
    task = open_task("audio-classification", zoo.save("wav2vec2", tmp_path / "model"))
    assert isinstance(task, AudioClassification)
    whole = load_data(without_cleaning(config)).sides[Side.TRAIN]
    heard = {
        "as it is": samples(task, list(whole)),
        "in training": samples(task, list(data.sides[Side.TRAIN])),
        "to predict": samples(task, predict.cleaned(whole, config)),
    }
    assert heard == {"as it is": [16000] * 4, "in training": [8000] * 4, "to predict": [8000] * 4}


def samples(task: AudioClassification, rows: Sequence[Row]) -> list[int]:
    return [example["samples"] for example in task.encode_inputs(rows)[0]]


def without_cleaning(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"clean": Clean()})})
