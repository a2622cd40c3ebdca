"""Rows that stand in the data more than once: equal ones by their hash, nearly equal texts by MinHash (`near`).

Two rows are the same if all that they hold is; a row of training leaks a held-out one if their inputs are the same,
whatever their labels. What is kept is always the earlier row. Per row only hashes are held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
from numpy.typing import NDArray

from finetune_api.clean import DedupMethod
from finetune_api.run import RunConfig
from finetune_trainer.data.clean.texts import text_roles
from finetune_trainer.data.near import Compared, nearly_equal
from finetune_trainer.data.rows import Rows
from finetune_trainer.data.sides import held_out_of, rule_of
from finetune_trainer.data.split import Side, hashed
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks import TASKS

ALIGNED = ("tags", "answers")
"""Roles that follow from the texts, and need not be equal where those are nearly so."""

Mask = NDArray[numpy.bool_]


def check_dedup(config: RunConfig) -> None:
    """Raise ConfigError if texts are to be compared where there are none."""
    task = TASKS[config.task]
    if config.dataset.dedup.method is DedupMethod.MIN_HASH and not set(task.inputs) & set(text_roles(task.roles)):
        message = f"spec.dataset.dedup.method: MinHash compares texts, and {config.task} reads none"
        raise ConfigError("NoText", message, "use Exact, which compares the files' bytes")


def without_duplicates(rows: Rows, config: RunConfig) -> tuple[Rows, dict[str, int]]:
    """The rows of `dataset.train` without those that an earlier one says already, and how many there were."""
    task, dedup = TASKS[config.task], config.dataset.dedup
    if dedup.method is DedupMethod.NONE:
        return rows, {"withinTraining": 0}
    whole = hashed(rows, tuple(task.roles.kinds), None, 0)[0]
    kept = rows.take(numpy.sort(numpy.unique(whole, return_index=True)[1]))
    conflicts = {} if task.target is None else {"conflictingLabels": _conflicts(kept, task.inputs)}
    if dedup.method is DedupMethod.MIN_HASH:
        kept = kept.take(~nearly_equal(kept, _whole_rows(config), dedup.threshold))
    return kept, {"withinTraining": len(rows) - len(kept), **conflicts}


def _conflicts(rows: Rows, inputs: tuple[str, ...]) -> int:
    """How many inputs come with several labels, in rows of which no two are equal."""
    counts = numpy.unique(hashed(rows, inputs, None, 0)[0], return_counts=True)[1]
    return int((counts > 1).sum())


def without_leaks(sides: Mapping[Side, Rows], config: RunConfig) -> tuple[Rows, dict[str, int]]:
    """The training rows whose inputs are not in held-out rows, and how many of them were in those of each side."""
    training, found = sides[Side.TRAIN], {}
    for side, rows in sides.items():
        if side is not Side.TRAIN and config.dataset.dedup.across_splits:
            leaks = (
                _leaks(training, rows, config) if _may_leak(side, config) else numpy.zeros(len(training), dtype=bool)
            )
            found[side.value] = int(leaks.sum())
            training = training.take(~leaks)
    return training, found


def _may_leak(side: Side, config: RunConfig) -> bool:
    """Whether training rows may have the inputs of this side: a split by inputs alone sees to it that none has."""
    by_input = rule_of(config).by == "Hash" and held_out_of(config)[side].sources is None
    return not by_input or config.dataset.dedup.method is DedupMethod.MIN_HASH


def _leaks(training: Rows, held_out: Rows, config: RunConfig) -> Mask:
    """Which of the training rows are the same as a held-out one, or nearly so."""
    inputs, dedup = TASKS[config.task].inputs, config.dataset.dedup
    same = numpy.isin(hashed(training, inputs, None, 0)[0], hashed(held_out, inputs, None, 0)[0])
    if dedup.method is not DedupMethod.MIN_HASH:
        return same
    both = Rows(training.table, numpy.concatenate([held_out.places, training.places]))
    near = nearly_equal(both, _only_inputs(config), dedup.threshold, kept=len(held_out))
    return same | near[len(held_out) :]


def _whole_rows(config: RunConfig) -> Compared:
    roles = TASKS[config.task].roles
    texts = text_roles(roles)
    return Compared(texts, tuple(role for role in roles.kinds if role not in (*texts, *ALIGNED)))


def _only_inputs(config: RunConfig) -> Compared:
    task = TASKS[config.task]
    texts = text_roles(task.roles)
    return Compared(
        tuple(role for role in task.inputs if role in texts), tuple(role for role in task.inputs if role not in texts)
    )


def report(config: RunConfig, within: Mapping[str, int], across: Mapping[str, int]) -> dict[str, Any]:
    """What run.json says of it."""
    return {"method": config.dataset.dedup.method.value, **within, "acrossSplits": dict(across)}
