"""After memory ran out: what the run was doing, and what to change so that it takes less than it took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.run import RunConfig
from finetune_trainer.data.kept import open_data
from finetune_trainer.data.prepare import load_data
from finetune_trainer.planning.footprint import Room
from finetune_trainer.planning.plan import Estimate, Made, Planner, settings
from finetune_trainer.planning.room import room_of
from finetune_trainer.record import Facts, kept_choices, read_record

LESS = 0.85
"""An estimate is within a quarter: what is to fit where this run did not has to be so much smaller by it."""


def shortage(config: RunConfig, facts: Facts) -> dict[str, Any]:
    """The longest micro-batch, the settings that it met, and the changes that would fit; None if none does."""
    data = load_data(config) if facts.rows is None else open_data(facts.rows)
    choices = kept_choices(read_record(Path(config.folder)))
    decided = None
    if choices is not None:
        decided = Made(choices.precision, choices.micro_batch_rows, choices.recompute)
    planner = Planner(config, data, facts.folder, room_of(config.resources, None), decided)
    found = planner.estimate(config)
    planner.room = _less(found, planner.sharing.per_node, planner.room)
    change = planner.remedy()
    return {
        "rows": found.made.rows,
        "longest": planner.lengths.most,
        "settings": settings(config, found.made, planner.sharing),
        "estimate": found.own.total,
        "changes": None if change is None else dict(change),
    }


def _less(found: Estimate, processes: int, room: Room) -> Room:
    """Whatever there is, it was less than what the run needed; the libraries cannot do with less."""
    saved = round((1 - LESS) * (found.own.total - found.own.libraries))
    if found.need.device is not None:
        most = found.need.device - saved
        return replace(room, device=min(most, room.device or most), host=None)
    most = found.need.host - saved * processes
    return replace(room, host=min(most, room.host or most))
