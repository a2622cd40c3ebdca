"""The tasks by name, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.job import Task
from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.tasks.image_classification import ImageClassification
from finetune_trainer.tasks.text_classification import TextClassification

TASKS: Mapping[Task, type[TaskKind]] = {
    Task.TEXT_CLASSIFICATION: TextClassification,
    Task.IMAGE_CLASSIFICATION: ImageClassification,
}
