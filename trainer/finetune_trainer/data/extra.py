"""Columns that play no role in the task, but that something else of the manifest asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune_api.run import RunConfig
from finetune_trainer.data.sides import rule_of
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError, nearest


def extra_columns(config: RunConfig, side: Side) -> dict[str, str]:
    """The columns that the sources of a side must have beside those of the roles, and the field that asks for each."""
    tested = Side.TRAIN if config.dataset.test.sources is None else Side.TEST
    slices = {column: f"spec.evaluation.slices[{number}]" for number, column in enumerate(config.evaluation.slices)}
    rule = rule_of(config)
    chosen = {rule.column: rule.field} if rule.column else {}
    return (slices if side is tested else {}) | (chosen if side is Side.TRAIN else {})


def check_columns(wanted: Mapping[str, str], known: Sequence[str], source: str) -> None:
    """Raise ConfigError for the first column that is not there."""
    for column, field in wanted.items():
        if column not in known:
            message = f"{field}: {source} has no column {column!r}"
            raise ConfigError("ColumnNotFound", message, nearest(column, known, "columns there are"))
