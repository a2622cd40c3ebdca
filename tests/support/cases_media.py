"""The cases of the tasks on images, on sound, and on several of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finetune_trainer.data.media import open_image
from finetune_trainer.data.rows import Row

from support.corpora import pictures
from support.matrix import Bar, Case

Said = Mapping[str, Any]


def best_label(answers: Sequence[Mapping[str, Any]]) -> Any:
    """What a pipeline is surest of, as `said` has it."""
    best = max(answers, key=lambda answer: answer["score"])
    return best["label"], best["score"]


def label_said(line: Said) -> Any:
    return line["label"], line["score"]


def classify_images(model: Path, rows: Sequence[Row]) -> list[Any]:
    from transformers import pipeline

    classifier = pipeline("image-classification", str(model))
    return [best_label(classifier(open_image(row.values["image"], row.place), top_k=None)) for row in rows]


def image_classification(model: str, rate: float, epochs: int, bar: float) -> Case:
    return Case(
        id=f"image-classification-{model}",
        task="image-classification",
        model=model,
        corpus=partial(pictures.digits, count=400),
        bar=Bar("accuracy", least=bar),
        ecosystem=classify_images,
        said=label_said,
        training={"learningRate": rate, "numTrainEpochs": epochs, "trainBatchSize": 32},
    )


CASES = (
    image_classification("resnet", rate=1e-2, epochs=6, bar=0.7),
    image_classification("efficientnet", rate=1e-2, epochs=6, bar=0.6),
    image_classification("vit", rate=3e-3, epochs=10, bar=0.6),
)
