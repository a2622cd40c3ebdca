"""The cases of the tasks on images, on sound, and on several of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finetune_trainer.data.media import open_audio, open_image
from finetune_trainer.data.rows import Row
from support import zoo
from support.corpora import mixed, pictures, speech
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


def samples_of(row: Row) -> dict[str, Any]:
    """A row's clip as pipelines take it; all clips here have the models' rate."""
    return {"raw": open_audio(row.values["audio"], row.place, speech.RATE).samples, "sampling_rate": speech.RATE}


def classify_clips(model: Path, rows: Sequence[Row]) -> list[Any]:
    from transformers import pipeline

    classifier = pipeline("audio-classification", str(model))
    return [best_label(classifier(samples_of(row), top_k=None)) for row in rows]


def audio_classification(model: str, rate: float, epochs: int, bar: float) -> Case:
    return Case(
        id=f"audio-classification-{model}",
        task="audio-classification",
        model=model,
        corpus=partial(speech.words, count=160, spoken=speech.SPOKEN[:4]),
        bar=Bar("accuracy", least=bar),
        ecosystem=classify_clips,
        said=label_said,
        training={"learningRate": rate, "numTrainEpochs": epochs, "trainBatchSize": 16},
    )


def transcribe(model: Path, rows: Sequence[Row]) -> list[str]:
    from transformers import pipeline

    recognizer = pipeline("automatic-speech-recognition", str(model))
    return [recognizer(samples_of(row))["text"] for row in rows]


def speech_recognition(model: str, rate: float, epochs: int, bar: float) -> Case:
    return Case(
        id=f"automatic-speech-recognition-{model}",
        task="automatic-speech-recognition",
        model=model,
        corpus=partial(speech.phrases, count=160, spoken=speech.SPOKEN[:4], longest=2),
        bar=Bar("wer", most=bar),
        ecosystem=transcribe,
        said=lambda line: line["text"],
        texts=lambda row: [row["text"]],
        training={"learningRate": rate, "numTrainEpochs": epochs, "trainBatchSize": 8},
    )


def similarities(model: Path, rows: Sequence[Row]) -> list[float]:
    import torch
    from transformers import CLIPModel, CLIPProcessor

    clip, processor = CLIPModel.from_pretrained(model), CLIPProcessor.from_pretrained(model)
    pictures, words = [open_image(row.values["image"], row.place) for row in rows], [row.values["text"] for row in rows]
    inputs = processor(text=words, images=pictures, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return list((clip(**inputs).logits_per_image / clip.logit_scale.exp()).diagonal().tolist())


CLIP = Case(
    id="image-text-contrastive-clip",
    task="image-text-contrastive",
    model="clip",
    corpus=partial(pictures.captioned, count=400),
    bar=Bar("recall@1", least=0.25),
    ecosystem=similarities,
    said=lambda line: line["similarity"],
    texts=lambda row: [row["text"]],
    training={"learningRate": 1e-3, "numTrainEpochs": 10, "trainBatchSize": 32},
)


def fused(model: Path, rows: Sequence[Row]) -> list[Any]:
    from finetune_trainer.multimodal import load_multimodal

    media = {"image", "audio"}
    values = [
        {name: value.path if name in media else value for name, value in row.values.items() if name != "label"}
        for row in rows
    ]
    return [label_said(answer) for answer in load_multimodal(model).predict(values)]


def encoders(kinds: Mapping[str, str], folder: Path, texts: Sequence[str]) -> Said:
    return {"encoders": {name: {"uri": zoo.save(kind, folder / name, texts).as_uri()} for name, kind in kinds.items()}}


FUSED = Case(
    id="multimodal-classification",
    task="multimodal-classification",
    model=partial(encoders, {"text": "bert", "image": "resnet", "audio": "wav2vec2-layer-norm"}),
    corpus=partial(mixed.letters, count=200),
    bar=Bar("accuracy", least=0.6),
    ecosystem=fused,
    said=label_said,
    texts=lambda row: [row["text"]],
    training={"learningRate": 3e-3, "numTrainEpochs": 8, "trainBatchSize": 16},
)

CASES = (
    image_classification("resnet", rate=1e-2, epochs=6, bar=0.7),
    image_classification("efficientnet", rate=3e-2, epochs=10, bar=0.5),
    image_classification("vit", rate=5e-3, epochs=14, bar=0.5),
    audio_classification("wav2vec2", rate=3e-3, epochs=5, bar=0.6),
    audio_classification("wav2vec2-layer-norm", rate=3e-3, epochs=10, bar=0.6),
    speech_recognition("wav2vec2-layer-norm", rate=4e-3, epochs=12, bar=0.6),
    speech_recognition("whisper", rate=2e-3, epochs=7, bar=0.4),
    CLIP,
    FUSED,
)
