"""What the supervisor hands to its ranks and what they hand back: files in a scratch folder that both know."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api.progress import Failure
from finetune_trainer.files import read_json, write_json
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.record import Facts

ENV_SCRATCH = "FINETUNE_SCRATCH"
ENV_DEVICE = "FINETUNE_DEVICE"
ENV_SUPERVISOR = "FINETUNE_SUPERVISOR"
GPU, CPU = "gpu", "cpu"
FACTS = "facts.json"
ROWS = "rows"


def write_facts(scratch: Path, facts: Facts) -> None:
    write_json(scratch / FACTS, {"data": facts.data, "model": facts.model, "folder": facts.folder.to_dict()})


def read_facts(scratch: Path) -> Facts:
    value = json.loads((scratch / FACTS).read_text(encoding="utf-8"))
    return Facts(value["data"], value["model"], ModelFolder.from_dict(value["folder"]), scratch / ROWS)


def told_facts(scratch: Path) -> dict[str, Any]:
    """What the preflight has found out of data and model; empty if it did not come so far."""
    return read_json(scratch / FACTS) or {}


def write_failure(scratch: Path, rank: int, failure: Failure) -> None:
    write_json(_failure_file(scratch, rank), failure.to_dict())


def read_failure(scratch: Path, rank: int) -> Failure | None:
    value = read_json(_failure_file(scratch, rank))
    return None if value is None else Failure.model_validate(value)


def _failure_file(scratch: Path, rank: int) -> Path:
    return scratch / f"failure-{rank}.json"


def offline_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps the libraries off the network and off the terminal: what the ranks need is in the cache."""
    return quiet_environment(environment) | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def quiet_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps the libraries off the terminal."""
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return {**environment, **quiet}


def cache_environment(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Caches in `scratch` where the home folder cannot be written to, as in a pod with a read-only root."""
    home = Path(environment.get("HOME", "/"))
    if os.access(home, os.W_OK) or "HF_HOME" in environment:
        return {}
    return {"HF_HOME": str(scratch / "huggingface"), "XDG_CACHE_HOME": str(scratch / "cache"), "HOME": str(scratch)}
