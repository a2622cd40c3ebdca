"""The folder of a run that succeeded, for what comes after training; small, but with weights that go in parts."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from finetune_trainer.pushing.content import Content

WRITTEN = 1_750_000_000
"""When the results were written, seconds since 1970: 2025-06-15T15:06:40Z."""
PROVENANCE = {
    "job": "team-a/reviews",
    "run": "1",
    "task": "text-classification",
    "method": "full",
    "base-model": "hf://google-bert/bert-base-uncased",
    "base-model-revision": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "base-model-digest": f"sha256:{'a' * 64}",
    "data-digest": f"sha256:{'b' * 64}",
    "trainer-version": "0.1.0",
}


def a_finished_run(folder: Path, seed: int = 1, megabytes: float = 9, **more: bytes) -> Path:
    """Writes the folder and returns it; `more` are further files of the model by name."""
    record = {
        "job": {"namespace": "team-a", "name": "reviews", "uid": "0a1b2c3d", "run": 1, "attempt": 1},
        "config": {"task": "text-classification", "method": {"type": "full"}},
        "model": {
            "uri": PROVENANCE["base-model"],
            "modelType": "bert",
            "revision": PROVENANCE["base-model-revision"],
            "sha256": "a" * 64,
        },
        "data": {"sha256": "b" * 64},
        "versions": {"finetune-operator": "0.1.0"},
    }
    weights = random.Random(seed).randbytes(int(megabytes * 2**20))
    written = {
        "model/config.json": b'{"model_type": "bert"}',
        "model/tokenizer.json": b"{}",
        "model/model.safetensors": weights,
        "README.md": b"---\nlicense: mit\n---\n# reviews\n",
        "evaluation.json": json.dumps({"metrics": {"test_accuracy": 0.5 + seed / 100}}).encode(),
        "run.json": json.dumps(record).encode(),
        "report.html": b"<html></html>",
        "errors.jsonl": b"{}\n",
        "status.json": b"{}",
        **{f"model/{name}": content for name, content in more.items()},
    }
    for name, content in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.utime(folder / "evaluation.json", (WRITTEN, WRITTEN))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_model(folder: Path) -> dict[str, bytes]:
    """What a hub or a registry should hold of a run's folder."""
    found = {file.name: file.path.read_bytes() for file in Content.of(folder).as_model()}
    assert {"config.json", "model.safetensors", "README.md", "evaluation.json", "run.json"} <= found.keys()
    return found
