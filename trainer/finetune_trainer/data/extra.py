"""Columns that play no role in the task, but that something else of the manifest asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune_api.run import RunConfig
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError, nearest


def extra_columns(config: RunConfig, side: Side) -> dict[str, str]:
    """The columns that the sources of a side must have beside those of the roles, and the field that asks for each."""
    tested = Side.TRAIN if config.dataset.test.sources is None else Side.TEST
    if side is not tested:
        return {}
    return {column: f"spec.evaluation.slices[{number}]" for number, column in enumerate(config.evaluation.slices)}


def check_columns(wanted: Mapping[str, str], known: Sequence[str], source: str) -> None:
    """Raise ConfigError for the first column that is not there."""
    for column, field in wanted.items():
        if column not in known:
            message = f"{field}: {source} has no column {column!r}"
            raise ConfigError("ColumnNotFound", message, nearest(column, known, "columns there are"))
