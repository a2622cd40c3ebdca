"""The training rows as a step gets them: marked, with the seed of their draw, and changed as the manifest says.

Rows that are only evaluated have a draw, too, but are never marked: nothing changes or weighs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.augment import mixing
from finetune_trainer.tasks.base import TRAINING, Example, TaskKind
from finetune_trainer.training.evaluate import Encoded


@dataclass(frozen=True)
class TrainingRows(Encoded):
    """Examples are changed when they are drawn, so that every epoch has others and none is kept."""

    task: TaskKind

    def drawn(self, index: int, seed: int) -> Example:
        example = self._changed(index, seed)
        settings = self.task.augment.image if self.task.augment else None
        if settings is None or not mixing.mixes(settings):
            return example
        mix = mixing.drawn(settings, len(self.rows), seed)
        return {**example, "mix": mix, "partner": self._changed(mix.partner, mix.seed)}

    def _changed(self, index: int, seed: int) -> Example:
        example: dict[str, Any] = {**self.examples[index], "draw": seed, TRAINING: True}
        if self.task.augment is None:
            return example
        if self.task.augment.text is not None:
            return self.task.augmented(self.task.reworded(self.rows[index], example, seed), seed)
        return self.task.augmented(example, seed)
