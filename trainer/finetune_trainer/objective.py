"""Which settings of the loss make sense for a task, known before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.dataset import ProblemType
from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder, architectures
from finetune_trainer.tasks.automatic_speech_recognition import BY_MOMENTS

UNSMOOTHED: Mapping[Task, str] = {
    Task.TEXT_REGRESSION: "its target is a number",
    Task.QUESTION_ANSWERING: "its targets are two places in a text, not labels",
    Task.FILL_MASK: "it learns how likely every word is, which smoothing would blur",
    Task.PREFERENCE_OPTIMIZATION: "it compares two answers",
    Task.IMAGE_TEXT_CONTRASTIVE: "it compares rows with each other",
}
"""Tasks whose targets are no labels that could be told apart less sharply, and why."""


def check_smoothing(config: RunConfig, model: ModelFolder) -> None:
    """Raise ConfigError for label smoothing that would do nothing, or harm."""
    if not config.training.label_smoothing:
        return
    why = UNSMOOTHED.get(config.task)
    if config.dataset.problem_type is ProblemType.MULTI_LABEL:
        why = "with several labels a row each is yes or no"
    if config.task is Task.AUTOMATIC_SPEECH_RECOGNITION and model.model_type in architectures()[BY_MOMENTS]:
        why = f"a {model.model_type} model says a character for each moment, with no moment given"
    if why is not None:
        message = f"spec.training.labelSmoothing: {config.task} cannot use it: {why}"
        raise ConfigError("NotSupported", message, "leave it out")
