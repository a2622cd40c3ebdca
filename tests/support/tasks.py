"""Tasks outside of a run: opened on a model's folder, with rows that a test writes down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import Needs, read_folder
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import TaskKind
from support.runs import a_run


def a_config(task: str, model: Path, dataset: Mapping[str, Any] | None = None, **training: Any) -> RunConfig:
    """A run's configuration, whose data nobody reads; `dataset` has further fields of that section."""
    run = a_run(model.parent, "./rows.jsonl", model.as_uri(), **training).with_("dataset", **dataset or {})
    return RunConfig.model_validate({**run.config, "task": task})


def open_task(
    task: str, model: Path, labels: Sequence[str] = (), dataset: Mapping[str, Any] | None = None, **training: Any
) -> TaskKind:
    """The task as a run opens it on the model in a folder."""
    kind = TASKS[Task(task)]
    folder = read_folder(model, "spec.model.uri", Needs(kind.auto_classes, kind.parts))
    return kind.load(folder, labels, a_config(task, model, dataset, **training))


def rows_of(values: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows as a source gives them."""
    return [Row(row, "rows.jsonl", number) for number, row in enumerate(values, start=1)]
