"""What is pushed: the files of a run that succeeded, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune_trainer import files
from finetune_trainer.report.snapshot import timestamp

DOCUMENTS = (files.CARD, files.EVALUATION, files.RECORD)
"""They go with a model wherever it goes."""
LOCAL = (files.STATUS, files.OUTCOME, files.PUSHED)
"""They are about this folder, and not done while a push is under way."""


@dataclass(frozen=True)
class File:
    """One file to push; `name` is its path there."""

    name: str
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def sha256(self) -> str:
        return _sha256(self.path, self.path.stat().st_mtime_ns)


@cache
def _sha256(path: Path, changed: int) -> str:  # noqa: ARG001
    """Weights are large, and more than one place asks."""
    return files.sha256_of(path)


@dataclass(frozen=True)
class Content:
    """The folder of a run that succeeded, and what its run.json says."""

    folder: Path
    record: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Content:
        return cls(folder, files.read_json(folder / files.RECORD) or {})

    def as_model(self) -> list[File]:
        """The model's files with the documents beside them, as libraries and hubs expect a model."""
        found = _below(self.folder / files.MODEL, "")
        return _sorted(found | {name: path for name in DOCUMENTS if (path := self.folder / name).exists()})

    def as_run(self, whole: bool) -> list[File]:
        """`model/` with the documents beside it, as a run's folder has it; `whole` adds its other results."""
        names = [name for name in files.RESULTS if name not in LOCAL] if whole else [*DOCUMENTS, files.MODEL]
        found: dict[str, Path] = {}
        for name in names:
            path = self.folder / name
            found |= _below(path, f"{name}/") if path.is_dir() else {name: path} if path.exists() else {}
        return _sorted(found)

    @property
    def is_whole(self) -> bool:
        return bool(self.record) and (self.folder / files.MODEL).is_dir()

    @property
    def created(self) -> str:
        """When the results were written: the same in every attempt to push them."""
        return timestamp((self.folder / files.EVALUATION).stat().st_mtime)

    @property
    def name(self) -> str:
        return str(self.record["job"]["name"])

    @property
    def model_type(self) -> str:
        return str(self.record["model"]["modelType"])

    def provenance(self) -> dict[str, str]:
        """What the model was made from, in words that annotations and manifests share; nothing that is not known."""
        job, model, config = self.record["job"], self.record["model"], self.record["config"]
        known = {
            "job": f"{job['namespace']}/{job['name']}",
            "run": str(job["run"]),
            "task": config["task"],
            "method": config["method"]["type"],
            "base-model": model["uri"],
            "base-model-revision": model["revision"],
            "base-model-digest": f"sha256:{model['sha256']}",
            "data-digest": f"sha256:{self.record['data']['sha256']}",
            "trainer-version": self.record["versions"].get("finetune-operator"),
        }
        return {name: value for name, value in known.items() if value}


def _below(folder: Path, prefix: str) -> dict[str, Path]:
    return {prefix + path.relative_to(folder).as_posix(): path for path in files.files_below(folder)}


def _sorted(found: Mapping[str, Path]) -> list[File]:
    return [File(name, path) for name, path in sorted(found.items())]
