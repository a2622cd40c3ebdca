"""Files that are whole or not there: atomic writes, hashes, and the names in a run's folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CHUNK = 1 << 20

METRICS_LOG = "metrics.jsonl"
STATUS = "status.json"
OUTCOME = "outcome.json"
RECORD = "run.json"
EVALUATION = "evaluation.json"
ERRORS = "errors.jsonl"
PREDICTIONS = "predictions.jsonl"
CARD = "README.md"
PAGE = "report.html"
ERROR_MEDIA = "errors"
CROSS_VALIDATION = "cross_validation.json"
DOUBTFUL = "label_issues.jsonl"
FOLDS = "folds"
PROFILE = "profile.json"
TENSORBOARD = "tensorboard"
WANDB = "wandb"
MODEL = "model"
PUSHED = "pushed.json"
RESULTS = (
    METRICS_LOG,
    STATUS,
    OUTCOME,
    RECORD,
    EVALUATION,
    ERRORS,
    PREDICTIONS,
    CARD,
    PAGE,
    ERROR_MEDIA,
    CROSS_VALIDATION,
    DOUBTFUL,
    FOLDS,
    PROFILE,
    TENSORBOARD,
    WANDB,
    MODEL,
    PUSHED,
)
"""Everything that a run writes into its folder, checkpoints apart."""


def write_atomic(path: Path, text: str, durable: bool = True) -> None:
    """Put `text` at `path` so that a reader sees the old file or the new one; `durable` waits for the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", durable)


def json_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any | None:
    """The value in a JSON file; None if it is absent or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path, each: Callable[[], None] = lambda: None) -> str:
    """Hash of a file's contents; `each` is called as it goes on."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            each()
    return digest.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files in `folder` and its subfolders, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest_of(paths: Mapping[str, Path]) -> str:
    """One hash over the names and the contents of files."""
    digest = hashlib.sha256()
    for name, path in sorted(paths.items()):
        digest.update(f"{name}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a whole folder; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
