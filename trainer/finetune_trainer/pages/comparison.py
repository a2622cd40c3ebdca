"""Several runs side by side: a document for the terminal, and a page. Pure, apart from drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.pages import charts
from finetune_trainer.pages.configuration import differences
from finetune_trainer.pages.figures import (
    BASELINE,
    clock,
    goal_of,
    lower_is_better,
    seconds_of,
    short_uri,
    state_of,
    title,
)
from finetune_trainer.pages.folder import RunFolder, is_number, part
from finetune_trainer.pages.page import render
from finetune_trainer.pages.sections import Chart

SIDES = ("train", "validation", "test")
LONGEST = 200
"""Characters of a field's value that are shown."""


def compare(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """What the terminal shows: runs, metrics with the best marked, fields that differ, and what to be careful about."""
    alike = len({run.task for run in runs}) == 1
    return {
        "runs": [_about(run, name) for run, name in zip(runs, names_of(runs), strict=True)],
        "metrics": _metrics(runs, alike),
        "fields": [{"name": name, "values": values} for name, values in differences(runs).items()],
        "notes": notes_of(runs),
    }


def names_of(runs: Sequence[RunFolder]) -> list[str]:
    """A name for each run: the job's; where jobs are called alike the folder's, and a number where that is alike."""
    jobs = [run.name for run in runs]
    names = [short_uri(str(run.path.absolute())) if jobs.count(run.name) > 1 else run.name for run in runs]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, start=1)]


def _about(run: RunFolder, name: str) -> dict[str, Any]:
    state, seconds = state_of(run), seconds_of(run)
    rows = part(run.data, "rows")
    return {
        "name": name,
        "folder": str(run.path),
        "task": run.task,
        "state": state.word,
        "sentence": state.sentence,
        "rows": " + ".join(str(rows[side]) for side in SIDES if side in rows),
        "seconds": seconds,
        "time": clock(seconds),
    }


def _metrics(runs: Sequence[RunFolder], alike: bool) -> list[dict[str, Any]]:
    """Every test metric that any run has, the goals first. None is best if the tasks differ, or only one run has it."""
    goals = {goal_of(run) for run in runs}
    names = dict.fromkeys(name for run in runs for name in run.measured if not name.startswith(BASELINE))
    return [
        {
            "name": name,
            "values": (values := [run.measured.get(name) for run in runs]),
            "baselines": [run.measured.get(BASELINE + name) for run in runs],
            "best": best_of(name, values) if alike else [False] * len(runs),
        }
        for name in sorted(names, key=lambda name: name not in goals)
    ]


def best_of(name: str, values: Sequence[float | None]) -> list[bool]:
    """Which values are the best; none where there is nothing to compare."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return [False] * len(values)
    best = min(known) if lower_is_better(name) else max(known)
    return [value == best for value in values]


def notes_of(runs: Sequence[RunFolder]) -> list[str]:
    """What a reader has to know before comparing."""
    found = []
    tasks = Counter(run.task for run in runs)
    if len(tasks) > 1:
        listed = ", ".join(sorted(tasks))
        found.append(f"The runs are of different tasks ({listed}): a metric says something else of each; none is best.")
    elif len({run.data.get("sha256") for run in runs}) > 1:
        found.append("The runs did not have the same rows: a better figure may come from easier test rows.")
    for run, name in zip(runs, names_of(runs), strict=True):
        if not run.evaluation:
            found.append(f"{name} has no test metrics. {state_of(run).sentence}")
    return found


def comparison_page(runs: Sequence[RunFolder]) -> str:
    """The same as a self-contained page, with the curves of all runs in one chart each."""
    document = compare(runs)
    names = names_of(runs)
    drawn = _curves(runs, names)
    fields = [{**field, "values": [_cell(value) for value in field["values"]]} for field in document["fields"]]
    return render("comparison.html", drawn, **{**document, "fields": fields}, charts=drawn)


def _curves(runs: Sequence[RunFolder], names: Sequence[str]) -> list[Chart]:
    goals = list(dict.fromkeys(f"validation_{goal}" for run in runs if (goal := goal_of(run)) and goal != "loss"))
    wanted = {"loss": "Training loss", "validation_loss": "Validation loss"}
    wanted |= {name: f"Validation {title(name.removeprefix('validation_'))}" for name in goals[:3]}
    found = []
    for field, heading in wanted.items():
        points = [point for run, name in zip(runs, names, strict=True) for point in _points(run, field, name)]
        if points:
            found.append(Chart(field.replace("_", "-"), heading, charts.curves(points, heading.lower())))
    return found


def _points(run: RunFolder, field: str, name: str) -> list[dict[str, Any]]:
    return charts.series(run.metrics, {field: name})


def _cell(value: Any) -> str:
    """A field's value in one line."""
    if value is None:
        return "not set"
    if isinstance(value, list):
        text = ", ".join(_cell(item) for item in value)
    elif isinstance(value, Mapping):
        text = ", ".join(f"{name}: {_cell(item)}" for name, item in value.items())
    else:
        text = f"{value:g}" if is_number(value) and isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
