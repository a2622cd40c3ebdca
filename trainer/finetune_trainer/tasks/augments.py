"""Which changes of training rows a task can make use of, as data, and the refusal of all others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from finetune_trainer.tasks.base import TaskKind

FIELD = "spec.dataset.augment"
WORDS = ("wordDropout", "wordSwap", "synonyms", "characterNoise")
PICTURES = ("randAugment", "horizontalFlip", "verticalFlip", "crop")
MIXES = ("mixup", "cutmix")
CLIPS = ("noise", "pitch", "speed", "specAugment")


def check_augment(task: type[TaskKind], config: RunConfig) -> None:
    """Raise ConfigError, naming the field, for a change that the task, or its encoders, can make nothing of."""
    wanted = config.dataset.augment.operations() if config.dataset.augment else {}
    for modality, fields in wanted.items():
        there = task.augments.get(modality, ())
        encoders = config.model.encoders.named() if config.model.encoders else {modality: None}
        if not there or modality not in encoders:
            message = f"{FIELD}.{modality}: {config.task} has no {modality} here that could be changed"
            raise ConfigError("NothingToAugment", message, _instead(task.augments, encoders))
        for field in fields:
            if field not in there:
                message = f"{FIELD}.{modality}.{field}: {config.task} cannot use it"
                raise ConfigError("NothingToAugment", message, nearest(field, there, f"it can use in {modality}"))


def _instead(augments: Mapping[str, Collection[str]], encoders: Collection[str]) -> str:
    there = [modality for modality in augments if len(encoders) == 1 or modality in encoders]
    return f"it takes {', '.join(f'{FIELD}.{name}' for name in there)}" if there else f"leave {FIELD} out"
