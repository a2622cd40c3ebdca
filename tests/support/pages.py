"""Run folders written by hand, with every file that a page is made of."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"
LABELS = ("delivery", "invoice", "praise")
ERRORS: Mapping[str, dict[str, Any]] = {
    "text-classification": {"text": "where is it", "label": "delivery", "prediction": "praise", "score": 0.91},
    "text-regression": {"text": "decent lamp", "label": 1.5, "prediction": -0.25},
    "token-classification": {
        "tokens": ["Ann", "in", "Rome"],
        "tags": ["B-PER", "O", "B-LOC"],
        "prediction": ["B-PER", "O", "B-ORG"],
        "wrongTags": 1,
    },
    "question-answering": {
        "question": "Who wrote it?",
        "context": "In May Ann wrote it, and Bob read it.",
        "answers": [{"text": "Ann", "answer_start": 7}],
        "prediction": "Bob",
        "score": 0.4,
    },
    "summarization": {"input": "a long text", "target": "the old lamp", "prediction": "the new lamp", "rougeL": 0.6},
    "translation": {"input": "ein Haus", "target": "a house", "prediction": "a mouse", "chrf": 51.2},
    "text-generation": {"prompt": "Once", "completion": "upon a time", "nll": 31.5, "tokens": 4, "accuracy": 0.25},
    "preference-optimization": {"prompt": "Hi", "chosen": "Hello", "rejected": "What", "margin": -0.5},
    "fill-mask": {
        "text": "a lamp that glows",
        "hidden": [{"position": 2, "token": "lamp", "read": "[MASK]", "guess": "cat", "probability": 0.01}],
    },
    "image-classification": {
        "image": {"path": "7.png", "sha256": "00"}, "label": "seven", "prediction": "one", "score": 0.5,
    },
    "audio-classification": {
        "audio": {"path": "7.wav", "sha256": "00"}, "label": "seven", "prediction": "one", "score": 0.5,
    },
    "automatic-speech-recognition": {
        "audio": {"path": "7.wav", "sha256": "00"}, "text": "seven of nine", "prediction": "seven or nine", "wer": 0.33,
    },
    "image-text-to-text": {
        "image": {"path": "7.png", "sha256": "00"}, "prompt": "What?", "completion": "a cat", "generated_text": "a dog",
    },
    "image-text-contrastive": {
        "image": {"path": "7.png", "sha256": "00"}, "text": "a red circle", "prediction": "a blue square", "rank": 3,
    },
    "multimodal-classification": {
        "image": {"path": "7.png", "sha256": "00"},
        "audio": {"path": "7.wav", "sha256": "00"},
        "text": "both",
        "label": ["a", "b"],
        "prediction": ["b", "c"],
        "score": 0.8,
    },
}  # fmt: skip
"""A line of errors.jsonl for each task, without its place."""
PROFILE = {
    "sides": {
        side: {
            "rows": rows,
            "labels": {"delivery": rows // 2, "invoice": rows // 3, "praise": rows // 6},
            "lengths": {
                "unit": "characters",
                "histogram": [{"from": 10 * place, "to": 10 * place + 10, "rows": rows // 6} for place in range(6)],
                "mean": 31.4,
                "median": 30,
                "p95": 57,
                "max": 60,
            },
            "duplicates": 2,
            "empty": 1,
        }
        for side, rows in (("train", 168), ("validation", 36), ("test", 36))
    },
    "warnings": [{"code": "UnevenLabels", "message": "praise has 28 of 168 rows", "hint": "see spec.dataset.balance"}],
}
ANALYSIS = {
    "confusion": {"labels": [*LABELS], "counts": [[10, 1, 2], [0, 12, 0], [3, 0, 8]], "other": False},
    "perClass": [{"label": label, "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 12} for label in LABELS],
    "calibration": {
        "ece": 0.04,
        "bins": [{"from": 0.5, "to": 0.75, "rows": 9, "confidence": 0.7, "accuracy": 0.6},
                 {"from": 0.75, "to": 1.0, "rows": 27, "confidence": 0.9, "accuracy": 0.93}],
    },
    "thresholds": [
        {"threshold": step / 10, "precision": 0.5 + step / 25, "recall": 1 - step / 20, "f1": 0.7, "accuracy": 0.8}
        for step in range(1, 10)
    ],
    "residuals": {
        "bias": -0.12,
        "histogram": [{"from": place / 2, "to": place / 2 + 0.5, "rows": 5} for place in range(-4, 4)],
        "points": [{"truth": place / 10, "prediction": place / 9} for place in range(40)],
    },
    "entities": {
        "perType": [{"type": "PER", "precision": 0.5, "recall": 0.4, "f1": 0.44, "support": 7}],
        "errors": {"missed": 3, "spurious": 1, "wrongType": 2, "wrongBoundary": 1},
    },
    "spans": {"exact": 20, "overlapping": 5, "disjoint": 3, "missed": 1, "spurious": 2},
    "substitutions": [{"reference": "of", "said": "or", "count": 4}],
    "insertions": [{"word": "uh", "count": 2}],
    "deletions": [{"word": "the", "count": 9}],
    "slices": [{"by": "length", "slice": name, "rows": 12, "metric": "accuracy", "value": value}
               for name, value in (("0 to 20", 0.7), ("20 to 40", 0.9), ("40 to 60", 0.8))],
}  # fmt: skip


def a_run_folder(root: Path, task: str = "text-classification", count: int = 30, **changes: Any) -> Path:
    """A finished run of `task`; `changes` replace whole files by the names of `documents`, None leaves one out."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [{**ERRORS[task], "source": "file:///data/rows.csv", "row": place + 1} for place in range(count)]
    for name, value in {**documents(task, lines), **changes}.items():
        if value is None:
            continue
        text = "".join(json.dumps(line) + "\n" for line in value) if isinstance(value, list) else json.dumps(value)
        ending = "jsonl" if isinstance(value, list) else "json"
        (root / f"{name}.{ending}").write_text(text)
    _media(root / "errors", ERRORS[task], min(count, 24))
    return root


def documents(task: str, errors: Sequence[Any]) -> dict[str, Any]:
    """Every file by its name without the ending."""
    return {
        "run": a_record(task),
        "metrics": metrics_lines(),
        "evaluation": an_evaluation(),
        "errors": list(errors),
        "status": {"phase": "Succeeded", "checkpoint": {"step": 40, "resumedFromStep": 16}},
        "profile": PROFILE,
        "cross_validation": {
            "folds": [{"fold": 1, "metrics": {"accuracy": 0.8}}, {"fold": 2, "metrics": {"accuracy": 0.9}}],
            "mean": {"accuracy": 0.85},
            "std": {"accuracy": 0.0707},
        },
        "label_issues": [{"text": "doubtful one", "given": "praise", "suggested": "invoice", "confidence": 0.04}],
    }


def a_record(task: str = "text-classification", name: str = "support-mail", **training: Any) -> dict[str, Any]:
    """run.json."""
    source = {"uri": "file:///data/rows.csv", "secretRef": {"name": "keys-of-the-store"}}
    return {
        "job": {"namespace": "default", "name": name, "uid": "1", "run": 1, "attempt": 1},
        "fingerprint": "0123456789abcdef0123",
        "config": {
            "task": task,
            "model": {"uri": "hf://owner/encoder"},
            "dataset": {"train": [source], "augment": {"text": {"swap": 0.1}}},
            "method": {"type": "full"},
            "training": {"learningRate": 5e-5, "seed": 7} | training,
        },
        "data": {
            "sha256": "ab" * 32,
            "rows": {"train": 168, "validation": 36, "test": 36},
            "labels": [*LABELS],
            "sources": [{"uri": "file:///data/rows.csv", "rows": 240, "sha256": "cd" * 32}],
            "cleaning": {"fixEncoding": {"changed": 4, "dropped": 0}, "dropEmpty": {"changed": 0, "dropped": 2}},
            "dedup": {"method": "Exact", "withinTraining": 3, "acrossSplits": {"validation": 1, "test": 2}},
            "splits": {"by": "Hash"},
            "balance": {"classWeights": {"praise": 2.5}},
        },
        "model": {"uri": "hf://owner/encoder", "modelType": "bert", "revision": "0a1b2c3d4e5f", "sha256": "ef" * 32},
        "choices": {"precision": "fp32", "processes": 2, "total_steps": 40},
        "versions": {"torch": "2.15.0"},
        "environment": {"processor": "A processor", "memoryBytes": 8 * 2**30},
        "usage": {"seconds": 75.0, "tokens": 123456, "energyJoules": 7200.0},
    }


def an_evaluation(**changes: Any) -> dict[str, Any]:
    """evaluation.json."""
    metrics = {"test_accuracy": 0.83, "test_f1_macro": 0.81, "test_baseline_accuracy": 0.47, "test_loss": 0.6}
    return {
        "metrics": metrics,
        "best": {"metric": "validation_accuracy", "value": 0.8, "step": 30},
        "forgetting": {"before": {"accuracy": 0.9}, "after": {"accuracy": 0.7}},
        "analysis": ANALYSIS,
    } | changes


def metrics_lines(steps: int = 40) -> list[dict[str, Any]]:
    """metrics.jsonl: a loss a step, a validation every ten."""
    found: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        time = f"2026-03-01T10:{step // 60:02}:{step % 60:02}Z"
        loss = 1.1 * math.exp(-step / 20)
        pace = {"learning_rate": 5e-5 * (1 - step / steps), "grad_norm": 1.0, "tokens_per_second": 900}
        found.append({"step": step, "epoch": step / 10, "loss": loss, **pace, "time": time})
        if step % 10 == 0:
            scores = {"validation_accuracy": 0.5 + step / 120, "validation_loss": loss + 0.1}
            found.append({"step": step, "epoch": step / 10, **scores, "time": time})
    return found


def _media(folder: Path, error: Mapping[str, Any], count: int) -> None:
    makers = {"image": (".jpg", a_jpeg), "audio": (".mp3", an_mp3)}
    for role, (ending, make) in makers.items():
        if role in error:
            folder.mkdir(exist_ok=True)
            content = make()
            for place in range(count):
                (folder / f"{place}.{role}{ending}").write_bytes(content)


def a_jpeg(side: int = 160) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def an_mp3(seconds: float = 1.0) -> bytes:
    import numpy
    import soundfile  # type: ignore[import-untyped]

    out, time = io.BytesIO(), numpy.arange(int(16_000 * seconds)) / 16_000
    soundfile.write(out, 0.3 * numpy.sin(2 * math.pi * 440 * time), 16_000, format="MP3")
    return out.getvalue()
