"""From the manifest's data section to checked rows on three sides, the same on every process and every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.dataset import HeldOut, Source
from finetune_api.evaluation import EvaluationStrategy
from finetune_api.run import RunConfig
from finetune_trainer.data.media import plain
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Loaded, load_source
from finetune_trainer.data.split import Side, split
from finetune_trainer.data.uri import Places
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.tasks import TASKS

FIELD = "spec.dataset"


@dataclass(frozen=True)
class Data:
    """The rows of each side, the labels in their order, and what identifies both."""

    sides: Mapping[Side, list[Row]]
    labels: list[str]
    sources: list[Loaded]

    @property
    def digest(self) -> str:
        """Hash over the rows of every side: equal if and only if the run sees the same data."""
        digest = hashlib.sha256()
        for side, rows in sorted(self.sides.items()):
            for row in rows:
                weight = [] if row.weight == 1.0 else [row.weight]
                digest.update(json.dumps([side, plain(row.values), *weight], sort_keys=True).encode())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What run.json says of the data."""
        sources = [
            {"uri": source.uri, "rows": len(source.rows), "sha256": source.digest, "revision": source.revision}
            for source in self.sources
        ]
        counts = {side.value: len(rows) for side, rows in self.sides.items()}
        return {"sha256": self.digest, "rows": counts, "labels": self.labels, "sources": sources}


def places_of(config: RunConfig) -> Places:
    return Places(config.volumes, config.base_folder)


def load_data(config: RunConfig) -> Data:
    """Read, split and check the rows. Raises ConfigError, DataError or Unavailable."""
    task, dataset = TASKS[config.task], config.dataset
    held_out = {Side.TEST: dataset.test, Side.VALIDATION: dataset.validation}
    shares = _shares(held_out)

    loaded = _load_all(dataset.train, config, f"{FIELD}.train")
    rows = [row for source in loaded for row in source.rows][: dataset.limit]
    stratified = [side for side in shares if held_out[side].stratify]
    sides = split(rows, task.inputs, task.target, config.training.seed, shares, stratified)
    for side, wanted in held_out.items():
        if wanted.sources is not None:
            own = _load_all(wanted.sources, config, f"{FIELD}.{side}.sources")
            sides[side] = [row for source in own for row in source.rows]
            loaded += own
    _check_sides(sides, held_out, len(rows), config)
    return Data(sides, task.check(sides, config), loaded)


def _shares(held_out: Mapping[Side, HeldOut]) -> dict[Side, float]:
    shares = {side: wanted.fraction for side, wanted in held_out.items() if wanted.fraction is not None}
    if sum(shares.values()) >= 1:
        message = f"{FIELD}: validation.fraction and test.fraction leave no rows to train on"
        raise ConfigError("NothingToTrainOn", message, "let them add up to less than 1")
    return shares


def _load_all(sources: Sequence[Source], config: RunConfig, field: str) -> list[Loaded]:
    roles, names, places = TASKS[config.task].roles, config.dataset.columns, places_of(config)
    return [load_source(source, roles, names, places, f"{field}[{number}]") for number, source in enumerate(sources)]


def _check_sides(
    sides: Mapping[Side, Sequence[Row]], held_out: Mapping[Side, HeldOut], total: int, config: RunConfig
) -> None:
    if not sides[Side.TRAIN]:
        raise DataError("EmptySplit", f"none of {total} rows is left to train on", "give more rows")
    needed = [Side.TEST] if config.evaluation.strategy is EvaluationStrategy.NEVER else [Side.TEST, Side.VALIDATION]
    for side in needed:
        if not sides[side]:
            message = f"{FIELD}.{side}.fraction: {held_out[side].fraction} of {total} rows is no row"
            raise DataError("EmptySplit", message, "give more rows, or a larger fraction")
