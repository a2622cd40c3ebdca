"""method.shots: training on a few rows of each class, the same ones whatever rows come beside them.

Rows are taken in the order of a hash of seed and inputs. An input counts once, however many rows have it; a row with
several labels counts for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Row, Rows
from finetune_trainer.data.split import hashed
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks import TASKS

FIELD = "spec.method.shots"
TAG = "shots"
"""Beside the inputs in what is hashed, so that the order is another one than that of the split."""


def check_shots(config: RunConfig) -> None:
    """Raise ConfigError for a task without classes."""
    if config.method.shots is not None and TASKS[config.task].target is None:
        message = f"{FIELD}: the rows of {config.task} have no classes to take {config.method.shots} rows of each from"
        raise ConfigError("NoClasses", message, "set spec.dataset.limit to train on the first rows only")


def few(rows: Rows, config: RunConfig) -> tuple[Rows, dict[str, Any]]:
    """At most `shots` training rows of each class, in their order, and what run.json says of them."""
    task, most = TASKS[config.task], config.method.shots
    if most is None or task.target is None:
        return rows, {}
    hashes, kinds = hashed(rows, task.inputs, task.target, config.training.seed, TAG)
    labels = [_labels(rows[place]) for place in numpy.unique(kinds, return_index=True)[1].tolist()]
    chosen, counts = _chosen(hashes, [labels[kind] for kind in kinds.tolist()], most)
    fewer = {label: count for label, count in sorted(counts.items()) if count < most}
    return rows.take(sorted(chosen)), {"perClass": most, "rows": len(chosen), **({"fewer": fewer} if fewer else {})}


def _chosen(
    hashes: NDArray[numpy.uint64], labels: Sequence[tuple[str, ...]], most: int
) -> tuple[list[int], Counter[str]]:
    """The places of the rows that are taken, and how many each label has among them."""
    chosen: list[int] = []
    counts: Counter[str] = Counter()
    for place in numpy.argsort(hashes, kind="stable").tolist():
        repeated = bool(chosen) and hashes[place] == hashes[chosen[-1]]
        if not repeated and any(counts[label] < most for label in labels[place]):
            chosen.append(place)
            counts.update(labels[place])
    return chosen, counts


def _labels(row: Row) -> tuple[str, ...]:
    """The labels of a row; a row that has none is of a class of its own."""
    value = row.values["label"]
    return (value if isinstance(value, tuple) else (value,)) or ("",)
