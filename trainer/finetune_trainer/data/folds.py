"""Cross-validation's parts of the training rows: each is tested once, by a run that learned from the others."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy
from numpy.typing import NDArray

from finetune_api.run import RunConfig
from finetune_trainer.data.balance import balance
from finetune_trainer.data.prepare import Data
from finetune_trainer.data.sides import rule_of
from finetune_trainer.data.split import Side, group_hashes, hashed
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks import TASKS


def of_fold(data: Data, config: RunConfig) -> Data:
    """The rows of the run's fold: tested is its part of the training rows, and learned the others.

    Groups that the manifest splits by are whole here, too. The labels stay those of all rows. A run that is no fold
    has all of its rows.
    """
    if config.fold is None:
        return data
    task, rows, seed = TASKS[config.task], data.sides[Side.TRAIN], config.training.seed
    inputs, labels = hashed(rows, task.inputs, task.target, seed)
    rule = rule_of(config)
    units = group_hashes(rows, rule.column, rule.field, seed) if rule.by == "Group" else inputs
    tested = fold_numbers(units, labels if task.target else None, config.fold.of, seed) == config.fold.index
    parts = {Side.TRAIN: rows.take(~tested), Side.TEST: rows.take(tested)}
    balanced = balance(task, parts[Side.TRAIN], data.labels, config)
    return replace(data, sides={**data.sides, **parts}, balance=balanced)


def fold_numbers(
    groups: NDArray[Any], labels: NDArray[numpy.int32] | None, folds: int, seed: int
) -> NDArray[numpy.int64]:
    """The part of each row, from 0: rows of one group are never parted, and the shares of `labels` are kept.

    Raises ConfigError if there are fewer groups than parts.
    """
    numbers = numpy.zeros(len(groups), dtype=numpy.int64)
    _, members = numpy.unique(groups, return_inverse=True)
    different = int(members.max(initial=-1)) + 1
    if different < folds:
        message = f"spec.evaluation.crossValidation.folds: {folds} folds of {different} training rows or groups"
        raise ConfigError("TooManyFolds", message, "use fewer folds, or give more rows")
    splitter = _splitter(different < len(groups), labels is not None, folds, seed)
    with warnings.catch_warnings():
        # A label with fewer rows than folds is missing in some of them, which is no fault.
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, tested) in enumerate(splitter.split(groups, labels, members)):
            numbers[tested] = number
    return numbers


def _splitter(grouped: bool, labelled: bool, folds: int, seed: int) -> Any:
    from sklearn.model_selection import (  # type: ignore[import-untyped]
        GroupKFold,
        KFold,
        StratifiedGroupKFold,
        StratifiedKFold,
    )

    kinds = {
        (False, False): KFold,
        (False, True): StratifiedKFold,
        (True, False): GroupKFold,
        (True, True): StratifiedGroupKFold,
    }
    return kinds[grouped, labelled](folds, shuffle=True, random_state=seed)
