"""From the manifest's data section to checked rows on three sides, the same on every process and every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from finetune_api.dataset import HeldOut, Source
from finetune_api.evaluation import EvaluationStrategy
from finetune_api.run import RunConfig
from finetune_trainer.data.balance import Balance, balance
from finetune_trainer.data.clean import cleaner_of
from finetune_trainer.data.dedup import check_dedup, without_duplicates, without_leaks
from finetune_trainer.data.dedup import report as dedup_report
from finetune_trainer.data.extra import extra_columns
from finetune_trainer.data.rows import PlaceArray, Rows
from finetune_trainer.data.shots import check_shots, few
from finetune_trainer.data.sides import held_out_of, rule_of, split_rows
from finetune_trainer.data.sources import Reading
from finetune_trainer.data.split import Side
from finetune_trainer.data.table import TableWriter, temporary_folder
from finetune_trainer.data.uri import Places
from finetune_trainer.errors import DataError
from finetune_trainer.fetching.downloads import Downloads
from finetune_trainer.tasks import TASKS

FIELD = "spec.dataset"


@dataclass(frozen=True)
class SourceFacts:
    """What run.json says of a source."""

    uri: str
    rows: int
    sha256: str
    revision: str | None


@dataclass(frozen=True)
class Data:
    """The rows of each side, the labels in their order, and what identifies both.

    `reports` is what the stages of preparation did, by the name that it has in run.json.
    """

    sides: Mapping[Side, Rows]
    labels: list[str]
    sources: list[SourceFacts]
    reports: Mapping[str, Any] = field(default_factory=dict)
    balance: Balance = field(default_factory=Balance)

    @cached_property
    def digest(self) -> str:
        """Hash over the rows of every side: equal if and only if the run sees the same data."""
        digest = hashlib.sha256()
        for side, rows in sorted(self.sides.items()):
            digest.update(f"{side} {len(rows)} {rows.digest}\n".encode())
            digest.update(rows.weights.tobytes())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What run.json says of the data."""
        counts = {side.value: len(rows) for side, rows in self.sides.items()}
        sources = [asdict(source) for source in self.sources]
        reports = {**self.reports, **({"balance": self.balance.report} if self.balance.report else {})}
        return {"sha256": self.digest, "rows": counts, "labels": self.labels, "sources": sources, **reports}


def places_of(config: RunConfig) -> Places:
    return Places(config.volumes, config.base_folder, Downloads.of(config))


def load_data(config: RunConfig, folder: Path | None = None) -> Data:
    """Read, split and check the rows. Raises ConfigError, DataError or Unavailable.

    All rows lie in one table in `folder`, or in one that goes with the table; the stages hand on places in it, never
    rows.
    """
    task, held_out = TASKS[config.task], held_out_of(config)
    rule_of(config)
    check_dedup(config)
    check_shots(config)
    reading = _Reading(config, folder or temporary_folder())

    training = reading.read(config.dataset.train, Side.TRAIN, f"{FIELD}.train")[: config.dataset.limit]
    own = {
        side: reading.read(wanted.sources, side, f"{FIELD}.{side}.sources")
        for side, wanted in held_out.items()
        if wanted.sources is not None
    }
    table = reading.writer.close()
    unique, within = without_duplicates(Rows(table, training), config)
    sides, splits = split_rows(unique, config)
    rows = {side: Rows(table, places) for side, places in (sides | own).items()}
    rows[Side.TRAIN], across = without_leaks(rows, config)
    rows[Side.TRAIN], shots = few(rows[Side.TRAIN], config)
    _check_sides(rows, held_out, len(training), config)
    labels, dedup = task.check(rows, config), dedup_report(config, within, across)
    reports = {**reading.cleaner.reports(), "dedup": dedup, "splits": splits}
    reports |= {"shots": shots} if shots else {}
    return Data(rows, labels, reading.sources, reports, balance(task, rows[Side.TRAIN], labels, config))


class _Reading:
    """The table as it grows, and what was read so far."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config = config
        self.cleaner = cleaner_of(config)
        self.writer = TableWriter(folder)
        self.sources: list[SourceFacts] = []

    def read(self, sources: Sequence[Source], side: Side, field_path: str) -> PlaceArray:
        """Add the rows of a side's sources to the table; returns their places."""
        start = len(self.writer)
        for number, source in enumerate(sources):
            self._add(source, extra_columns(self.config, side), f"{field_path}[{number}]")
        return numpy.arange(start, len(self.writer))

    def _add(self, source: Source, keep: Mapping[str, str], field_path: str) -> None:
        task, names = TASKS[self.config.task], self.config.dataset.columns
        places = places_of(self.config)
        reading = Reading(source, task.roles, names, places, field_path, keep=keep, cleaner=self.cleaner)
        for row in reading.rows():
            self.writer.add(row)
        self.sources.append(SourceFacts(source.uri, reading.count, reading.digest, reading.revision))


def _check_sides(sides: Mapping[Side, Rows], held_out: Mapping[Side, HeldOut], total: int, config: RunConfig) -> None:
    if not len(sides[Side.TRAIN]):
        hint = "give more rows; those that are in validation or test, too, do not count (spec.dataset.dedup)"
        raise DataError("EmptySplit", f"none of {total} rows is left to train on", hint)
    needed = [Side.TEST] if config.evaluation.strategy is EvaluationStrategy.NEVER else [Side.TEST, Side.VALIDATION]
    for side in needed:
        if not len(sides[side]) and held_out[side].sources is not None:
            message = f"{FIELD}.{side}.sources: cleaning leaves none of their rows"
            raise DataError("EmptySplit", message, "give more rows, or see what spec.dataset.clean drops")
        if not len(sides[side]):
            message = f"{FIELD}.{side}.fraction: {held_out[side].fraction} of {total} rows is no row"
            raise DataError("EmptySplit", message, "give more rows, or a larger fraction")
