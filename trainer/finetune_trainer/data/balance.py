"""Making up for rare classes: how much each counts in the loss, and how often an epoch has its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from finetune_api.augment import ClassWeights, Oversample
from finetune_api.dataset import ProblemType
from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Rows
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from finetune_trainer.tasks.base import TaskKind

FIELD = "spec.dataset.balance"


@dataclass(frozen=True)
class Balance:
    """`class_weights` is empty where all classes count alike.

    `row_weights` says how often an epoch has each row, and `groups` which rows make up for each other where that is
    no whole number; both are None where the rows' own weights stay. `report` is what run.json says.
    """

    class_weights: Mapping[str, float] = field(default_factory=dict)
    row_weights: NDArray[numpy.float64] | None = None
    groups: NDArray[numpy.int32] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


def check_balance(task: type[TaskKind], config: RunConfig) -> None:
    """Raise ConfigError for what can be known to be wrong without the rows."""
    wanted = config.dataset.balance
    if wanted.class_weights is not ClassWeights.NONE and task.class_name is None:
        message = f"{FIELD}.classWeights: {config.task} has no classes"
        raise ConfigError("NoClasses", message, f"leave {FIELD} out; it is for tasks with a label or tag to choose")
    if wanted.oversample is not Oversample.NONE and task.target is None:
        message = f"{FIELD}.oversample: a row of {config.task} has no class of its own"
        raise ConfigError("NoClasses", message, f"use {FIELD}.classWeights" if task.class_name else "leave it out")
    if wanted.oversample is not Oversample.NONE and config.dataset.problem_type is ProblemType.MULTI_LABEL:
        message = f"{FIELD}.oversample: with MultiLabel a row can have a rare label and a frequent one"
        raise ConfigError("SeveralLabels", message, f"use {FIELD}.classWeights: Balanced")


def balance(task: type[TaskKind], rows: Rows, labels: Sequence[str], config: RunConfig) -> Balance:
    """What the manifest asks for, for these training rows. Raises ConfigError for a weight of an unknown label."""
    wanted, row_weights, groups = config.dataset.balance, None, None
    report: dict[str, Any] = {}
    if wanted.oversample is Oversample.MINORITY:
        groups = _classes_of(task, rows, labels)
        row_weights = _as_often_as_the_largest(rows.weights, groups)
        seen = _seen(row_weights, groups, len(labels))
        there = numpy.bincount(groups, minlength=len(labels))
        report["oversample"] = {
            label: {"rows": int(there[number]), "seen": seen[number]} for number, label in enumerate(labels)
        }
    weights = _class_weights(task, rows, labels, config, rows.weights if row_weights is None else row_weights)
    if weights:
        report["classWeights"] = {label: round(weight, 6) for label, weight in weights.items()}
    return Balance(weights, row_weights, groups, report)


def _classes_of(task: type[TaskKind], rows: Rows, labels: Sequence[str]) -> NDArray[numpy.int32]:
    """The number of each row's only label."""
    numbers = {label: number for number, label in enumerate(labels)}
    return numpy.fromiter((numbers[task.classes(row)[0]] for row in rows), numpy.int32, len(rows))


def _as_often_as_the_largest(weights: NDArray[numpy.float64], groups: NDArray[numpy.int32]) -> NDArray[numpy.float64]:
    totals = numpy.bincount(groups, weights)
    # A fold of a cross-validation may have no row of a rare label; no row asks for its factor.
    factors = totals.max() / numpy.where(totals > 0, totals, 1.0)
    result: NDArray[numpy.float64] = weights * factors[groups]
    return result


def _seen(weights: NDArray[numpy.float64], groups: NDArray[numpy.int32], classes: int) -> list[int]:
    """How many rows of each class an epoch has, as the sampler draws them."""
    found = [0] * classes
    for pool in Sampler(len(weights), 1, 0, weights, groups).pools:
        found[groups[pool.rows[0]]] += len(pool.rows) * pool.copies + pool.further
    return found


def _class_weights(
    task: type[TaskKind], rows: Rows, labels: Sequence[str], config: RunConfig, often: NDArray[numpy.float64]
) -> dict[str, float]:
    wanted = config.dataset.balance
    if wanted.class_weights is ClassWeights.CUSTOM:
        return _custom(labels, config, str(task.class_name))
    if wanted.class_weights is ClassWeights.NONE:
        return {}
    counts: Counter[str] = Counter()
    for row, times in zip(rows, often, strict=True):
        for name in task.classes(row):
            counts[name] += times
    if config.dataset.problem_type is ProblemType.MULTI_LABEL and task.target is not None:
        return {label: _against_absence(counts[label], float(often.sum())) for label in labels}
    total, there = counts.total(), sum(1 for label in labels if counts[label])
    return {label: float(total / (there * counts[label])) if counts[label] else 1.0 for label in labels}


def _against_absence(present: float, total: float) -> float:
    """What a label that is there counts, so that all rows with it weigh as much as all without."""
    return float((total - present) / present) if total > present > 0 else 1.0


def _custom(labels: Sequence[str], config: RunConfig, class_name: str) -> dict[str, float]:
    """Labels that the manifest does not name count 1."""
    weights = dict.fromkeys(labels, 1.0)
    named: set[str] = set()
    for number, item in enumerate(config.dataset.balance.weights):
        place = f"{FIELD}.weights[{number}].label"
        if item.label not in weights:
            message = f"{place}: no training row has the {class_name} {item.label!r}"
            raise ConfigError(f"Unknown{class_name.title()}", message, nearest(item.label, labels, f"{class_name}s"))
        if item.label in named:
            raise ConfigError("NamedTwice", f"{place}: {item.label!r} stands twice", "leave one of them out")
        named.add(item.label)
        weights[item.label] = item.weight
    return weights
