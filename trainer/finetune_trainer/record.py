"""run.json: everything that is needed to repeat a run, and what a later attempt must agree with.

Automatic choices (threads, precision, micro-batch) are made once, by the first attempt, and kept here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import Data
from finetune_trainer.data.profile import profile
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import RECORD, digest_of, read_json
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import TASKS

DEFINING = ("task", "model", "dataset", "method", "training", "evaluation")
"""Sections of the RunConfig that say what is computed; where and on how many processes may change."""
DDP, FSDP = "ddp", "fsdp"
VERSIONED = ("finetune-operator", "torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors", "numpy")


@dataclass(frozen=True)
class Choices:
    """What was left to us: made by the first attempt, used again by every later one."""

    precision: str
    processes: int
    threads: int
    micro_batch_rows: int
    log_steps: int
    total_steps: int
    warmup_steps: int
    recompute: bool = False
    padding_free: bool = False
    strategy: str = DDP
    adds_up_whole: bool = True
    compiled: bool = False
    kernels: bool = False


@dataclass(frozen=True)
class Facts:
    """What the preflight found out: which rows and which model they are, and where both lie here.

    `rows` is where the rows are kept for the ranks; None where each process is to read them itself. `profile` is what
    the rows are like, which only the preflight knows.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    folder: ModelFolder
    rows: Path | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)


def facts_of(config: RunConfig, data: Data, model: ModelFolder, forgetting: Mapping[str, Any] | None = None) -> Facts:
    """Reads the model's files once to hash them; `forgetting` is what is known of the rows of that check."""
    about_model = {
        "uri": ", ".join(config.model.uris().values()),
        "modelType": model.model_type,
        "revision": model.revision,
        "sha256": digest_of(dict(model.files())),
    }
    about_data = data.record() | ({"forgetting": dict(forgetting)} if forgetting else {})
    task = TASKS[config.task]
    return Facts(about_data, about_model, model, profile=profile(data.sides, task.inputs, task.target))


def defining(config: RunConfig) -> dict[str, Any]:
    """The run-defining part of a RunConfig, without what only says how to get at things."""
    document = config.to_dict()
    sections = {name: document[name] for name in DEFINING}
    merge = document["output"]["mergeAdapter"]
    public: dict[str, Any] = _without_secrets(sections)
    return public | {"output": {"mergeAdapter": merge}}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items() if name != "secretRef"}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def fingerprint(config: RunConfig, facts: Facts) -> str:
    """Hash of configuration, data and model: checkpoints of another fingerprint are of another run."""
    parts = [defining(config), facts.data["sha256"], facts.model["sha256"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def record_of(config: RunConfig, facts: Facts, choices: Choices, around: Mapping[str, Any]) -> dict[str, Any]:
    """The document that is written to run.json; `around` are the run's id, its versions and its machine."""
    return {
        "version": "v1",
        "job": config.job.to_dict(),
        "fingerprint": fingerprint(config, facts),
        "config": config.to_dict(),
        "data": dict(facts.data),
        "model": dict(facts.model),
        "choices": asdict(choices),
        **around,
    }


def read_record(folder: Path) -> dict[str, Any] | None:
    record: dict[str, Any] | None = read_json(folder / RECORD)
    return record


def kept_choices(record: Mapping[str, Any] | None) -> Choices | None:
    return Choices(**record["choices"]) if record else None


def check_unchanged(config: RunConfig, record: Mapping[str, Any]) -> None:
    """Raise ConfigError, listing the fields, if the folder's run was another one."""
    before = dict(_flat(defining(RunConfig.model_validate(record["config"]))))
    now = dict(_flat(defining(config)))
    changed = [
        f"spec.{name}: {_shown(before, name)} in the folder, {_shown(now, name)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        message = f"{config.folder} holds a run of another configuration:\n" + "\n".join(changed)
        raise ConfigError("SpecChanged", message, "choose another folder, or start over (finetune run --fresh)")


def check_same_data(facts: Facts, record: Mapping[str, Any]) -> None:
    """Raise ConfigError if rows or model are no longer those that the run began with."""
    seen = {"data": facts.data, "model": facts.model, "data to forget": facts.data.get("forgetting")}
    before = {**record, "data to forget": record["data"].get("forgetting")}
    for name, now in seen.items():
        if now is not None and before[name]["sha256"] != now["sha256"]:
            message = f"the {name} changed since this run began: its hash was {before[name]['sha256'][:12]}…"
            raise ConfigError("InputChanged", message, "put it back, or start over in another folder")


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}[{number}]")
    else:
        yield path, value


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
