"""spec.evaluation.gate: what the test metrics have to reach, or the run fails and keeps its model."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_api.base import Document, Rule, present
from finetune_api.fields import Word


class Bound(Document):
    """One metric of the test rows, and the values that pass."""

    metric: Word = Field(description="Its name in evaluation.json and in the status, such as `test_f1_macro`.")
    min: float | None = Field(None, description="The least value that passes.")
    max: float | None = Field(None, description="The greatest value that passes.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{present('min')} || {present('max')}",
            lambda bound: bound.min is not None or bound.max is not None,
            "set min, max or both",
        ),
        Rule(
            f"!({present('min')} && {present('max')}) || self.min <= self.max",
            lambda bound: bound.min is None or bound.max is None or bound.min <= bound.max,
            "no value can pass: min is more than max",
        ),
    )

    def holds(self, value: float) -> bool:
        """Whether `value` passes; NaN does not."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max) and value == value
