"""The matrix's cases of tasks that read text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.data.rows import Row
from support.matrix import Bar, Case
from support.models import sentences


def classified(folder: Path) -> list[dict[str, Any]]:  # noqa: ARG001
    return [{"text": text, "label": label} for text, label in sentences(240)]


def says_label(folder: Path, rows: Sequence[Row]) -> list[Any]:
    """Label and score, as anybody would ask for them."""
    from transformers import pipeline

    results = pipeline("text-classification", str(folder))([row.values["text"] for row in rows])
    return [(result["label"], result["score"]) for result in results]


def said_label(line: Mapping[str, Any]) -> Any:
    return (line["label"], line["score"])


CLASSIFICATION = {
    "task": "text-classification",
    "corpus": classified,
    "ecosystem": says_label,
    "said": said_label,
    "bar": Bar("accuracy", least=0.8),
    "training": {"numTrainEpochs": 8, "trainBatchSize": 16, "learningRate": 3e-3},
}
CASES: tuple[Case, ...] = tuple(
    Case(id=f"text-classification {model}", model=model, **CLASSIFICATION)
    for model in ("bert", "roberta", "distilbert", "gpt2", "qwen3")
)
