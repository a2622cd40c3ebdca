"""spec.evaluation: when the held-out rows are looked at."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from finetune_api.base import Document, Rule, present


class EvaluationStrategy(StrEnum):
    EPOCH = "Epoch"
    STEPS = "Steps"
    NEVER = "Never"


class Evaluation(Document):
    """When the validation rows are looked at."""

    strategy: EvaluationStrategy = Field(EvaluationStrategy.EPOCH, description="After each epoch, or by steps.")
    steps: int | None = Field(None, ge=1, description="Steps between two evaluations.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"(has(self.strategy) && self.strategy == 'Steps') == {present('steps')}",
            lambda evaluation: (evaluation.strategy == EvaluationStrategy.STEPS) == (evaluation.steps is not None),
            "set steps when, and only when, strategy is Steps",
        ),
    )
