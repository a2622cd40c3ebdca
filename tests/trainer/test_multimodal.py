"""`load_multimodal` answers for any rows: in their order, whatever else is asked with them, or says what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest
import soundfile
from PIL import Image

from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.preflight import find_model
from finetune_trainer.tasks import TASKS
from support import zoo
from support.runs import a_run

if TYPE_CHECKING:
    from finetune_trainer.multimodal import Multimodal

pytestmark = pytest.mark.torch
TEXTS = ("one", "two three four", "five six", "seven")
SECONDS = (0.4, 0.2, 0.4, 0.3)
SHADES = (0, 90, 180, 250)


def media(folder: Path) -> list[dict[str, Any]]:
    """A row for each text, with a grey image and a clip of noise."""
    draw = numpy.random.default_rng(0)
    for number, (seconds, shade) in enumerate(zip(SECONDS, SHADES, strict=True)):
        soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, int(16_000 * seconds)), 16_000)
        Image.new("RGB", (20, 20), (shade, shade, shade)).save(folder / f"{number}.png")
    files = [{"image": str(folder / f"{number}.png"), "audio": str(folder / f"{number}.wav")} for number in range(4)]
    return [{"text": text, **paths} for text, paths in zip(TEXTS, files, strict=True)]


def saved(root: Path, kinds: Mapping[str, str], problem: str = "SingleLabel") -> Multimodal:
    """A model of these encoders with a new head, saved as a run saves it, and loaded."""
    from finetune_trainer.multimodal import load_multimodal

    uris = {name: {"uri": zoo.save(kind, root / name, TEXTS).as_uri()} for name, kind in kinds.items()}
    run = a_run(root, "./rows.jsonl", "").with_("dataset", problemType=problem)
    config = RunConfig.model_validate({**run.config, "task": "multimodal-classification", "model": {"encoders": uris}})
    kind = TASKS[config.task]
    task = kind.load(find_model(config, kind), ["no", "yes"], config)
    model, _ = task.load_model()
    model.save_pretrained(root / "model")
    task.save(root / "model")
    return load_multimodal(root / "model")


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param({"text": "bert", "image": "vit", "audio": "wav2vec2"}, id="all three, padding would show"),
        pytest.param({"text": "roberta", "audio": "wav2vec2-layer-norm"}, id="text and audio"),
        pytest.param({"image": "efficientnet", "text": "distilbert"}, id="image and text"),
        pytest.param({"text": "gpt2", "image": "resnet"}, id="a decoder as encoder"),
    ],
)
def test_each_row_is_answered_by_itself(kinds: dict[str, str], tmp_path: Path) -> None:
    classify, rows = saved(tmp_path, kinds), media(tmp_path)
    together = classify.predict(rows)
    assert [answer["label"] for answer in together] == [classify.predict([row])[0]["label"] for row in rows]
    alone = [classify.predict([row])[0]["score"] for row in rows]
    assert [answer["score"] for answer in together] == pytest.approx(alone, abs=2e-4)
    assert len({answer["score"] for answer in together}) > 1


def test_several_labels(tmp_path: Path) -> None:
    """As predictions.jsonl has them: those that are likely, and a score for each."""
    classify = saved(tmp_path, {"text": "bert", "image": "vit"}, problem="MultiLabel")
    (answer,) = classify.predict(media(tmp_path)[:1])
    assert set(answer["scores"]) == {"no", "yes"}
    assert answer["labels"] == [label for label, score in answer["scores"].items() if score >= 0.5]


def test_bytes_and_paths_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classify, (row, *_) = saved(tmp_path, {"text": "bert", "image": "vit"}), media(tmp_path)
    monkeypatch.chdir(tmp_path)
    others = [row | {"image": "0.png"}, row | {"image": (tmp_path / "0.png").read_bytes()}]
    assert classify.predict(others) == classify.predict([row, row])


def test_what_a_row_lacks(tmp_path: Path) -> None:
    classify, (row, *_) = saved(tmp_path, {"text": "bert", "image": "vit"}), media(tmp_path)
    with pytest.raises(ConfigError, match="row 2 has no image") as caught:
        classify.predict([row, {"text": "one", "picture": "a.png"}])
    assert caught.value.hint == "values there are: picture, text"
    with pytest.raises(DataError, match=r"row 1: column 'image' \(image\) names missing.png, which does not exist"):
        classify.predict([row | {"image": "missing.png"}])
