"""Each example's manifest through the real command, at a small size: what it is there to show can be seen in its run.

Those whose weights come from the hub get small ones of the same architecture instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_examples import morse, shapes
from support import zoo

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).parents[2] / "examples"


class Run:
    """One example, carried out."""

    def __init__(self, topic: str, folder: Path, **changes: Any) -> None:
        manifest = str(EXAMPLES / topic / "job.yaml")
        sets = [item for field, value in changes.items() for item in ("--set", f"spec.{_path(field)}={value}")]
        command = [sys.executable, "-m", "finetune_cli", "run", manifest, "--output", str(folder / "run"), *sets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.folder = folder / "run"
        assert done.returncode == 0, done.stdout + done.stderr

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def metrics(self) -> Mapping[str, float]:
        metrics: Mapping[str, float] = self.read("status.json")["metrics"]
        return metrics


def _path(field: str) -> str:
    """A field of the spec, written as a Python name: two underscores for a dot."""
    return field.replace("__", ".").replace("train_0", "train[0]")


def test_every_example_has_a_test_and_a_line_in_the_readme() -> None:
    topics = {path.parent.name for path in EXAMPLES.glob("*/job.yaml")}
    readme = (EXAMPLES / "README.md").read_text()
    tested = {"quickstart", *TESTED}
    assert topics == tested
    assert all(f"({topic}/job.yaml)" in readme for topic in topics)


def test_imbalanced(tmp_path: Path) -> None:
    """Rare classes weigh more, and the macro F1 is far above that of naming the commonest class."""
    run = Run("imbalanced", tmp_path, training__numTrainEpochs=4)
    weights = run.read("run.json")["data"]["balance"]["classWeights"]
    assert weights["defect"] > 5 * weights["delivery"]
    assert run.read("evaluation.json")["best"]["metric"] == "validation_f1_macro"
    assert run.metrics["test_f1_macro"] > 0.4


def test_few_shot(tmp_path: Path) -> None:
    """Sixteen rows a class, and still twice as good as chance."""
    run = Run("few-shot", tmp_path, training__numTrainEpochs=6)
    assert run.read("run.json")["data"]["rows"]["train"] == 6 * 16
    assert run.metrics["test_accuracy"] > 0.4
    assert (run.folder / "model" / "adapter_model.safetensors").exists()


def test_cross_validation(tmp_path: Path) -> None:
    """Mean and spread over the folds stand in the status, beside the test of the model on all rows."""
    run = Run("cross-validation", tmp_path, evaluation__crossValidation__folds=2, training__numTrainEpochs=2)
    assert len(run.read("cross_validation.json")["folds"]) == 2
    assert run.metrics["cv_f1_macro_mean"] > 0.5
    assert 0 < run.metrics["cv_f1_macro_std"] < 0.3
    assert run.metrics["test_f1_macro"] > 0.5


def test_lora_causal_lm(tmp_path: Path) -> None:
    """The adapter lies beside the model, and few weights were trained."""
    path = EXAMPLES / "finetune_examples" / "support_replies.jsonl"
    turns = [turn["content"] for line in path.read_text().splitlines() for turn in json.loads(line)["messages"]]
    model = with_positions(zoo.save("llama", tmp_path / "model", turns), 512)
    run = Run("lora-causal-lm", tmp_path, model__uri=model.as_uri(), training__maxSteps=6)
    assert (run.folder / "model" / "adapter_model.safetensors").exists()
    losses = [line["loss"] for line in map(json.loads, (run.folder / "metrics.jsonl").open()) if "loss" in line]
    assert losses[-1] < losses[0]


def with_positions(model: Path, positions: int) -> Path:
    """The model for longer texts: its positions are rotations, which need no weights."""
    for name, field in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        path = model / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: positions}))
    return model


def test_frozen_resnet(tmp_path: Path) -> None:
    """The backbone's features are computed once, and its weights stay what they were."""
    shapes.main([str(tmp_path / "images"), "--count", "120"])
    model = zoo.save("resnet", tmp_path / "model")
    run = Run(
        "frozen-resnet",
        tmp_path,
        model__uri=model.as_uri(),
        dataset__train_0__uri=(tmp_path / "images").as_uri(),
        training__numTrainEpochs=2,
    )
    assert "features" in (run.folder / "trainer.log").read_text()
    assert unchanged(model, run.folder / "model")


def unchanged(before: Path, after: Path) -> bool:
    """Whether all weights of a backbone are the same in both folders."""
    from safetensors.numpy import load_file

    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    backbone = {name.removeprefix("resnet."): tensor for name, tensor in new.items() if name.startswith("resnet.")}
    return old.keys() == backbone.keys() and all((old[name] == backbone[name]).all() for name in old)


def test_speech(tmp_path: Path) -> None:
    """Clips with noise are learned from; each test clip gets a transcript."""
    morse.main([str(tmp_path / "clips"), "--count", "40"])
    model = zoo.save("wav2vec2", tmp_path / "model", [" ".join(morse.WORDS)])
    run = Run(
        "speech",
        tmp_path,
        model__uri=model.as_uri(),
        dataset__train_0__uri=(tmp_path / "clips" / "clips.jsonl").as_uri(),
        training__maxSteps=6,
    )
    assert {"test_wer", "test_cer", "test_loss"} <= set(run.metrics)


TESTED = ("imbalanced", "few-shot", "cross-validation", "lora-causal-lm", "frozen-resnet", "speech")
