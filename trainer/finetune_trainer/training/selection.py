"""Which evaluation was the best, and when to stop for want of a better one: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.evaluation import EarlyStopping
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError, nearest
from finetune_trainer.metrics.names import names_of
from finetune_trainer.tasks.base import Better, Goal

FIELD = "spec.evaluation.metricForBestModel"
PREFIXES = ("validation_", "eval_")
BASELINE = "baseline_"
LOWER = frozenset({"loss", "perplexity", "wer", "cer", "mse", "mae", "rmse", "ece"})
"""Metrics of which less is better; so are median ranks."""


@dataclass(frozen=True)
class Standing:
    """The best evaluations so far, the best first, and how many in a row since then brought nothing better."""

    ranking: tuple[Mapping[str, Any], ...] = ()
    stale: int = 0

    @property
    def best(self) -> Mapping[str, Any] | None:
        """Its metric, value and step."""
        return self.ranking[0] if self.ranking else None

    @property
    def steps(self) -> list[int]:
        """Of the evaluations in the ranking."""
        return [place["step"] for place in self.ranking]

    def after(self, step: int, value: float, goal: Goal, keep: int, stopping: EarlyStopping | None) -> Standing:
        """With one evaluation more; among equals the earlier one is the better."""
        place = sum(not goal.improves(value, other["value"]) for other in self.ranking)
        entry = {"metric": f"{PREFIXES[0]}{goal.metric}", "value": value, "step": step}
        ranking = (*self.ranking[:place], entry, *self.ranking[place:])[: max(1, keep)]
        fresh = self.best is None or _gain(value, self.best["value"], goal) > (stopping.threshold if stopping else 0.0)
        return replace(self, ranking=ranking, stale=0 if fresh else self.stale + 1)

    def is_enough(self, stopping: EarlyStopping | None) -> bool:
        """Whether it is time to stop."""
        return stopping is not None and self.stale >= stopping.patience


def standing_of(state: Mapping[str, Any]) -> Standing:
    """The standing that `asdict` made a mapping of; the first one if that is empty."""
    return Standing(tuple(state["ranking"]), state["stale"]) if state else Standing()


def _gain(value: float, best: float, goal: Goal) -> float:
    return (value - best) * goal.better.value


def goal_of(config: RunConfig, own: Goal) -> Goal:
    """The metric that the manifest names, or the task's `own`."""
    wanted = config.evaluation.metric_for_best_model
    if wanted is None:
        return own
    name = _bare(wanted)
    lower = name in LOWER or name.endswith("_median_rank")
    return Goal(name, Better.LOWER if lower else Better.HIGHER)


def check_goal(config: RunConfig) -> None:
    """Raise ConfigError for a metric that no evaluation of the task has."""
    wanted = config.evaluation.metric_for_best_model
    names = names_of(config.task, config.dataset.problem_type)
    known = [name for name in names if not name.startswith(BASELINE)]
    if wanted is not None and _bare(wanted) not in known:
        message = f"{FIELD}: {config.task} has no metric {wanted!r}"
        raise ConfigError("UnknownMetric", message, nearest(_bare(wanted), known, "it has"))


def value_of(metrics: Mapping[str, float], goal: Goal, config: RunConfig) -> float | None:
    """The goal's value; None where these rows do not define it and nobody asked for it. Raises ConfigError if so."""
    value = metrics.get(goal.metric)
    if value is None and (config.evaluation.metric_for_best_model or config.evaluation.early_stopping):
        message = f"{FIELD}: the validation rows do not define {goal.metric!r}"
        hint = f"name one of {', '.join(sorted(_without_baselines(metrics)))}, or give more rows to validate on"
        raise ConfigError("MetricNotDefined", message, hint)
    return value


def _without_baselines(names: Mapping[str, float]) -> Sequence[str]:
    return [name for name in names if not name.startswith(BASELINE)]


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name
