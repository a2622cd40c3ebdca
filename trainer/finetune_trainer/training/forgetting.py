"""A check against forgetting: rows of what the model could do before, evaluated before training and after it.

There is something to forget only where the pre-trained model can already do the task: it has every weight of it, and
where it says labels, they are those of this run in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.data.clean import cleaner_of
from finetune_trainer.data.prepare import Data, places_of
from finetune_trainer.data.rows import Rows
from finetune_trainer.data.sources import Reading
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import read_json
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import Example, TaskKind

if TYPE_CHECKING:
    from torch import nn

    from finetune_trainer.training.evaluate import Encoded
    from finetune_trainer.training.run import Run
    from finetune_trainer.training.world import World

FIELD = "spec.evaluation.forgetting"
SIDE = "forgetting"
BEFORE, AFTER = "before", "after"


def check_forgetting(config: RunConfig, data: Data, model: ModelFolder) -> dict[str, Any] | None:
    """What run.json says of the rows; None if no one asked for the check.

    Raises ConfigError if the pre-trained model has nothing of the task to forget, and DataError for rows that the task
    cannot judge.
    """
    if config.evaluation.forgetting is None:
        return None
    task = TASKS[config.task]
    _check_base(task, config, data.labels, model)
    reading = _reading(config)
    rows = Rows.of(reading.rows())
    task.check({Side.TRAIN: data.sides[Side.TRAIN], Side.TEST: rows}, config)
    return {"uri": reading.source.uri, "rows": len(rows), "sha256": reading.digest, "revision": reading.revision}


def _reading(config: RunConfig) -> Reading:
    forgetting = config.evaluation.forgetting
    assert forgetting is not None
    names = config.dataset.columns if forgetting.columns is None else forgetting.columns
    roles = TASKS[config.task].roles
    return Reading(forgetting.source, roles, names, places_of(config), FIELD, cleaner=cleaner_of(config))


def _check_base(task: type[TaskKind], config: RunConfig, labels: Sequence[str], model: ModelFolder) -> None:
    if config.task is Task.PREFERENCE_OPTIMIZATION:
        raise _nothing("its rewards are measured against the model before training, so they begin at zero")
    if task.encoders:
        raise _nothing(f"the head of {config.task} is always new")
    if task.class_name is not None and (known := _labels_of(model)) != list(labels):
        found = ", ".join(known[:10]) or "none"
        raise _nothing(f"the pre-trained model's labels ({found}) are not those of the training rows in their order")


def _labels_of(model: ModelFolder) -> list[str]:
    """The labels that a model's configuration tells, in their order."""
    config = read_json(model.path / "config.json")
    named = config.get("id2label") if isinstance(config, Mapping) else None
    return [str(label) for _, label in sorted((named or {}).items(), key=lambda item: int(item[0]))]


def _nothing(why: str) -> ConfigError:
    hint = "leave it out, or start from a model that was already fine-tuned for these labels"
    return ConfigError("NothingToForget", f"{FIELD}: {why}", hint)


def prepare_forgetting(
    task: TaskKind, model: nn.Module, new: Sequence[str], training: Sequence[Example], world: World
) -> Encoded | None:
    """The rows as examples; the folds of a cross-validation have none.

    Raises ConfigError if the model that training begins with has `new` parameters.
    """
    from finetune_trainer.training.evaluate import Encoded, fixed_draws

    if task.config.evaluation.forgetting is None or task.config.fold is not None:
        return None
    if new:
        raise _nothing(f"the pre-trained model has no weights for {task.config.task}, such as {new[0]}")
    rows = Rows.of(_reading(task.config).rows())
    examples, _ = task.encode(rows)
    prepared = task.prepare(model, {Side.TRAIN: training, Side.TEST: examples}, world)[Side.TEST]
    seed = task.training.seed
    return Encoded(rows, fixed_draws(prepared, seed, SIDE))


def measure(run: Run, when: str) -> dict[str, float]:
    """Metrics of what the model can do of it now, also in metrics.jsonl; empty but in the main process.

    Raises StopRequested.
    """
    from finetune_trainer.training.evaluate import evaluate, prefixed

    if run.forgetting is None:
        return {}
    evaluation = evaluate(run.model, run.task, run.forgetting, run.world, run.stop)
    if evaluation is None:
        return {}
    run.reporter.record(prefixed(f"{SIDE}_{when}", evaluation.report.metrics))
    return evaluation.report.metrics


def compared(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Both, and by how much each metric changed, as evaluation.json has it."""
    change = {name: after[name] - value for name, value in before.items() if name in after}
    return {BEFORE: dict(before), AFTER: dict(after), "change": change}
