"""A run's folder as its page reads it: whatever files are there, in whatever state the run is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_trainer import files
from finetune_trainer.errors import ConfigError

MOST_LINES = 200_000
MOST_ERRORS = 300

Values = Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """What the files say; a file that is absent or torn is empty here."""

    path: Path
    record: Values
    evaluation: Values
    status: Values
    profile: Values
    metrics: Sequence[Values]
    errors: Sequence[Values]
    doubtful: Sequence[Values] = ()
    """Training rows whose label is probably wrong."""
    crossed: Values = field(default_factory=dict)
    """What the folds of a cross-validation said: folds, mean, std."""

    @property
    def config(self) -> Values:
        return part(self.record, "config")

    @property
    def data(self) -> Values:
        return part(self.record, "data")

    @property
    def task(self) -> str:
        return str(self.config.get("task", "unknown task"))

    @property
    def name(self) -> str:
        return str(part(self.record, "job").get("name") or self.path.name)

    @property
    def measured(self) -> dict[str, float]:
        """The test metrics without their prefix, the baseline's included; empty before the end."""
        return with_prefix(part(self.evaluation, "metrics"), "test_")


def read_run(folder: Path) -> RunFolder:
    """Raises ConfigError if `folder` holds no run."""
    record = _object(folder / files.RECORD)
    if not record:
        message = f"{folder} holds no run: it has no {files.RECORD}"
        raise ConfigError("NotARun", message, "name the folder that `finetune run` or a FineTuneJob left")
    return RunFolder(
        path=folder,
        record=record,
        evaluation=_object(folder / files.EVALUATION),
        status=_object(folder / files.STATUS),
        profile=_object(folder / files.PROFILE),
        metrics=list(islice(_lines(folder / files.METRICS_LOG), MOST_LINES)),
        errors=list(islice(_lines(folder / files.ERRORS), MOST_ERRORS)),
        doubtful=list(islice(_lines(folder / files.DOUBTFUL), MOST_ERRORS)),
        crossed=_object(folder / files.CROSS_VALIDATION),
    )


def part(values: Values, name: str) -> Values:
    """An object in an object; empty if there is none."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def listed(values: Values, name: str) -> list[Any]:
    """A list in an object; empty if there is none."""
    found = values.get(name)
    return found if isinstance(found, list) else []


def is_number(value: Any) -> bool:
    """A finite one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def with_prefix(values: Values, prefix: str) -> dict[str, float]:
    """The numbers whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix) and is_number(value)
    }


def _object(path: Path) -> Values:
    value = files.read_json(path)
    return value if isinstance(value, dict) else {}


def _lines(path: Path) -> Iterator[Values]:
    """The objects of a file with one a line; a torn line is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value
