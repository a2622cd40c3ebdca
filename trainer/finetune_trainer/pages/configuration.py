"""The part of a run's configuration that a manifest has, and where two runs differ in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from finetune_trainer.pages.figures import flat
from finetune_trainer.pages.folder import RunFolder

SECTIONS = ("task", "model", "dataset", "method", "training", "evaluation", "checkpoint", "output", "resources")
SECRET = "secretRef"
LONGEST = 40_000
"""Characters of a configuration that are shown."""


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's sections without references to secrets and without what was left empty."""
    cleaned = {name: _public(config[name]) for name in SECTIONS if name in config}
    return {name: value for name, value in cleaned.items() if value not in (None, {}, [])}


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _public(item) for name, item in value.items() if name != SECRET}
        return {name: item for name, item in kept.items() if item not in (None, {}, [])}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return value


def as_yaml(config: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(public(config), sort_keys=False, allow_unicode=True, width=100)
    return text if len(text) <= LONGEST else text[:LONGEST] + "\n# … and more; run.json has all of it\n"


def differences(runs: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """Fields of which two runs have different values, with the value of each run; None where it has none."""
    flats = [flat(public(run.config)) for run in runs]
    names = sorted({name for values in flats for name in values})
    table = {f"spec.{name}": [values.get(name) for values in flats] for name in names}
    return {name: values for name, values in table.items() if any(value != values[0] for value in values)}
