"""The gate: the test metrics beside the bounds that the manifest sets. Pure; what fails keeps its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.gate import Bound
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError, EvaluationGateFailed, nearest
from finetune_trainer.metrics.names import TEST, names_of


@dataclass(frozen=True)
class Judged:
    """One bound and the value that was measured; None where the evaluation has no such metric."""

    bound: Bound
    value: float | None

    @property
    def passed(self) -> bool:
        return self.value is not None and self.bound.holds(self.value)

    def to_dict(self) -> dict[str, Any]:
        """As evaluation.json has it."""
        bound = self.bound
        return {"metric": bound.metric, "min": bound.min, "max": bound.max, "value": self.value, "passed": self.passed}

    def __str__(self) -> str:
        wanted = [f"{name} {limit:g}" for name in ("min", "max") if (limit := getattr(self.bound, name)) is not None]
        value = "was not measured" if self.value is None else f"is {self.value:.6g}"
        return f"{self.bound.metric} {value} ({', '.join(wanted)})"


def check_gate(config: RunConfig) -> None:
    """Raise ConfigError for a metric that the task never has: better now than after hours of training."""
    known = [f"{TEST}{name}" for name in names_of(config.task, config.dataset.problem_type)]
    for place, bound in enumerate(config.evaluation.gate):
        if bound.metric not in known:
            message = f"spec.evaluation.gate[{place}].metric: {config.task} has no test metric {bound.metric!r}"
            raise ConfigError("UnknownMetric", message, nearest(bound.metric, known, "it has"))


def judge(gate: Sequence[Bound], metrics: Mapping[str, float]) -> list[Judged]:
    return [Judged(bound, metrics.get(bound.metric)) for bound in gate]


def failure_of(judged: Sequence[Judged]) -> EvaluationGateFailed | None:
    """The end of a run that did not pass; None if it did. A metric that is missing did not."""
    failed = [one for one in judged if not one.passed]
    if not failed:
        return None
    message = "the model did not pass the evaluation gate: " + "; ".join(map(str, failed))
    hint = "the model is kept, and evaluation.json and errors.jsonl tell where it is wrong"
    if any(one.value is None for one in failed):
        hint += "; a metric that these test rows do not define cannot be a gate"
    return EvaluationGateFailed("EvaluationGateFailed", message, hint)
