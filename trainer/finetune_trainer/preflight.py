"""Everything that can be known to be wrong before torch is imported, so that a bad job ends within seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.manifest import problems_of
from finetune_api.progress import Result
from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import load_data, places_of
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import OUTCOME, read_json
from finetune_trainer.model_folder import check_max_length, find_model
from finetune_trainer.record import Facts, check_same_data, facts_of
from finetune_trainer.tasks import TASKS


def load_run_config(path: Path) -> RunConfig:
    """The RunConfig in a file. Raises ConfigError with every mistake in it."""
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        message = f"cannot read the run's configuration {path}: {error.strerror}"
        hint = "name the file as argument or in FINETUNE_RUN_CONFIG"
        raise ConfigError("RunConfigUnreadable", message, hint) from error
    except ValidationError as error:
        problems = "\n".join(str(problem) for problem in problems_of(error, RunConfig))
        raise ConfigError("RunConfigInvalid", f"{path}: {problems}") from error


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` has succeeded."""
    outcome = read_json(folder / OUTCOME)
    return isinstance(outcome, dict) and outcome.get("outcome") == Result.SUCCEEDED


def check_inputs(config: RunConfig, record: Mapping[str, Any] | None) -> Facts:
    """Read and check rows and model, and compare them with what the run began with.

    Raises ConfigError, DataError or Unavailable.
    """
    data = load_data(config)
    model = find_model(config.model, TASKS[config.task].model_types, places_of(config))
    check_max_length(config.training.max_length, model)
    facts = facts_of(config, data, model)
    if record is not None:
        check_same_data(facts, record)
    return facts
