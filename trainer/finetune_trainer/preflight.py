"""Everything that can be known to be wrong before torch is imported, so that a bad job ends within seconds."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.manifest import problems_of
from finetune_api.progress import Outcome
from finetune_api.run import RunConfig
from finetune_trainer.data.balance import check_balance
from finetune_trainer.data.clean.sounds import count_resampled
from finetune_trainer.data.kept import keep_data
from finetune_trainer.data.prepare import load_data, places_of
from finetune_trainer.data.told import LEAK, told
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import OUTCOME, PUSHED, read_json
from finetune_trainer.gate import check_gate
from finetune_trainer.methods.limits import check_method, check_positions, gpus_of
from finetune_trainer.model_folder import ModelFolder, Needs, check_max_length, find_folder, sampling_rate
from finetune_trainer.objective import check_smoothing
from finetune_trainer.record import Facts, check_same_data, facts_of
from finetune_trainer.report.trackers.choice import check_tracking
from finetune_trainer.sharding_limits import check_sharding
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.augments import check_augment
from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.training.compiling import check_compile
from finetune_trainer.training.forgetting import check_forgetting
from finetune_trainer.training.kernels import check_kernels
from finetune_trainer.training.padding import check_padding
from finetune_trainer.training.precision import check_precision
from finetune_trainer.training.selection import check_goal

MODEL_FIELD = "spec.model.uri"

log = logging.getLogger(__name__)


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
    """Whether the run in `folder` has left its model: it succeeded, or only its gate failed, or only its push."""
    if (folder / PUSHED).exists():
        return True
    value = read_json(folder / OUTCOME)
    return value is not None and Outcome.model_validate(value).is_finished


def find_model(config: RunConfig, task: type[TaskKind], weights: bool = True) -> ModelFolder:
    """The model, or the encoders, that the run starts from; without `weights` only what says how large it is.

    Raises ConfigError if the task cannot use them.
    """
    places, needs = places_of(config), Needs(task.auto_classes, task.parts)
    if config.model.encoders is None and task.encoders:
        message = f"spec.model.uri: {config.task} joins several encoders"
        hint = f"set spec.model.encoders with at least two of {', '.join(task.encoders)}"
        raise ConfigError("EncodersMissing", message, hint)
    if config.model.encoders is None:
        return find_folder(str(config.model.uri), config.model.revision, MODEL_FIELD, needs, places, weights)
    if not task.encoders:
        message = f"spec.model.encoders: {config.task} takes one model"
        raise ConfigError("UnsupportedModel", message, "set spec.model.uri instead")
    found = {
        name: find_folder(
            encoder.uri,
            encoder.revision,
            f"spec.model.encoders.{name}.uri",
            Needs(task.auto_classes, (task.encoders[name],)),
            places,
            weights,
        )
        for name, encoder in config.model.encoders.named().items()
    }
    return ModelFolder(Path(), "+".join(encoder.model_type for encoder in found.values()), encoders=found)


def check_inputs(config: RunConfig, record: Mapping[str, Any] | None, folder: Path | None = None) -> Facts:
    """Read and check rows and model, and compare them with what the run began with. The rows are kept in `folder`.

    Raises ConfigError, DataError or Unavailable.
    """
    check_gate(config)
    check_tracking(config, os.environ)
    check_goal(config)
    check_augment(TASKS[config.task], config)
    check_balance(TASKS[config.task], config)
    check_method(config, gpus_of(config))
    check_compile(config, gpus_of(config))
    check_precision(config, gpus_of(config))
    data = load_data(config, folder)
    if folder is not None:
        keep_data(data, folder)
    model = find_model(config, TASKS[config.task])
    if "sampleRates" in data.reports and (rate := sampling_rate(model)):
        count_resampled(data.reports, rate)
    for line in told(data.reports):
        log.log(logging.WARNING if line.startswith(LEAK) else logging.INFO, line)
    check_max_length(config.training.max_length, model)
    check_positions(config, model)
    check_smoothing(config, model)
    check_sharding(config, model)
    check_padding(config, model)
    check_kernels(config, model, gpus_of(config))
    facts = facts_of(config, data, model, check_forgetting(config, data, model))
    for warned in facts.profile["warnings"]:
        log.warning("%s: %s; %s", warned["code"], warned["message"], warned["hint"])
    if record is not None:
        check_same_data(facts, record)
    return facts
