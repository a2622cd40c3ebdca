"""How the rows of dataset.train are split, as the manifest says, and what run.json says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.dataset import HeldOut
from finetune_api.run import RunConfig
from finetune_trainer.data.rows import PlaceArray, Rows
from finetune_trainer.data.split import Assigned, Side, by_group, by_input
from finetune_trainer.data.times import by_time
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks import TASKS

FIELD = "spec.dataset"


@dataclass(frozen=True)
class Rule:
    """What the held-out rows are chosen by: a column, or the rows' inputs if there is none. `field` asks for it."""

    by: str = "Hash"
    column: str = ""
    field: str = ""


def held_out_of(config: RunConfig) -> dict[Side, HeldOut]:
    return {Side.TEST: config.dataset.test, Side.VALIDATION: config.dataset.validation}


def shares_of(config: RunConfig) -> dict[Side, float]:
    """The part of the training rows that each side holds out. Raises ConfigError if nothing is left."""
    held_out = held_out_of(config)
    shares = {side: wanted.fraction for side, wanted in held_out.items() if wanted.fraction is not None}
    if sum(shares.values()) >= 1:
        message = f"{FIELD}: validation.fraction and test.fraction leave no rows to train on"
        raise ConfigError("NothingToTrainOn", message, "let them add up to less than 1")
    return shares


def rule_of(config: RunConfig) -> Rule:
    """What shares of the training rows are chosen by. Raises ConfigError if the two sides do not agree."""
    held_out = held_out_of(config)
    rules = {side: _rule(side, held_out[side]) for side in shares_of(config)}
    found = next((rule for rule in rules.values() if rule.column), Rule())
    for side, rule in rules.items():
        if (rule.by, rule.column) != (found.by, found.column):
            name = found.field.rsplit(".", 1)[-1]
            message = f"{FIELD}.{side}: its rows are chosen otherwise than {found.field} says"
            raise ConfigError("SplitsDiffer", message, f"set {FIELD}.{side}.{name}: {found.column}, or give it sources")
    return found


def _rule(side: Side, wanted: HeldOut) -> Rule:
    if wanted.group_by is not None:
        return Rule("Group", wanted.group_by, f"{FIELD}.{side}.groupBy")
    if wanted.time_column is not None:
        return Rule("Time", wanted.time_column, f"{FIELD}.{side}.timeColumn")
    return Rule()


def split_rows(rows: Rows, config: RunConfig) -> tuple[dict[Side, PlaceArray], dict[str, Any]]:
    """The places of each side in the table, and what was decided."""
    shares, rule = shares_of(config), rule_of(config)
    assigned, said = _assign(rows, rule, shares, config)
    places = {side: rows.places[among] for side, among in assigned.places().items()}
    if not shares:
        return places, {"by": "Sources"}
    column = {"column": rule.column} if rule.column else {}
    fractions = {side.value: share for side, share in shares.items()}
    return places, {"by": rule.by, **column, "fractions": fractions, **said}


def _assign(
    rows: Rows, rule: Rule, shares: Mapping[Side, float], config: RunConfig
) -> tuple[Assigned, Mapping[str, Any]]:
    seed = config.training.seed
    if rule.by == "Time":
        sides, cuts = by_time(rows, rule.column, rule.field, shares)
        from_times = {side.value: cut for side, cut in cuts.items()}
        return Assigned([Side.TRAIN, *shares], sides, 0, {}), {"from": from_times}
    if rule.by == "Group":
        found = by_group(rows, rule.column, rule.field, seed, shares)
        groups = {side.value: count for side, count in found.units.items()}
        return found, {"seed": seed, "groups": groups, "moved": found.moved}
    task, held_out = TASKS[config.task], held_out_of(config)
    stratified = [side for side in shares if held_out[side].stratify]
    found = by_input(rows, task.inputs, task.target, seed, shares, stratified)
    return found, {"seed": seed, "stratified": bool(stratified and task.target), "moved": found.moved}
