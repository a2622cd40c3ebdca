"""What each section of a page shows, put together from a run's folder. Pure, apart from Altair's own validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.pages import charts
from finetune_trainer.pages.figures import BASELINE, NONE, clock, counted, flat, goal_of, shown, title, validations
from finetune_trainer.pages.folder import RunFolder, Values, is_number, listed, part, with_prefix
from finetune_trainer.pages.rows import brief

WHAT = ("what", "value")
MOST_ROWS = 200
"""Lines of a table."""
SMALL_CHARTS = 4
SIDES = ("train", "validation", "test")
NO_TOKENS = ("image-classification", "audio-classification", "automatic-speech-recognition")
"""Tasks whose rows are counted in something else than tokens."""


@dataclass(frozen=True)
class Chart:
    """A chart with what it says in words; `id` is unique in its page."""

    id: str
    title: str
    spec: Mapping[str, Any]
    note: str = ""
    small: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; numbers stand right. `bar` is the column with shares that are also drawn as bars."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    bar: int | None = None
    sortable: bool = False


@dataclass(frozen=True)
class Section:
    """One section: its parts in their order."""

    id: str
    title: str
    lead: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    warnings: Sequence[Values] = ()

    def __bool__(self) -> bool:
        return bool(self.charts or self.tables or self.warnings)


# --- training ---------------------------------------------------------------------------------------------------------


def training(run: RunFolder) -> Section:
    """Loss, metrics and learning rate over the steps."""
    rules = _rules(run)
    validated = list(_validation(run, rules))
    found = [*_loss(run, rules), *validated[:1], *_pace(run), *validated[1:]]
    return Section("training", "Training", _about_training(run), found)


def _about_training(run: RunFolder) -> str:
    best = part(run.evaluation, "best")
    said = []
    if best:
        metric = title(str(best.get("metric")).removeprefix("validation_"))
        said.append(f"Best validation {metric} {shown(best.get('value'))}, at step {shown(best.get('step'))}.")
    early = part(run.evaluation, "stoppedEarly")
    if early:
        said.append(f"Stopped early, at step {shown(early.get('step'))} of {shown(early.get('totalSteps'))}.")
    if not validations(run):
        said.append("No validation took place while it trained.")
    return " ".join(said)


def _rules(run: RunFolder) -> list[dict[str, Any]]:
    """Where the best evaluation was, and where an attempt resumed."""
    best = part(run.evaluation, "best").get("step")
    resumed = part(run.status, "checkpoint").get("resumedFromStep")
    rules = [{"step": best, "what": "best"}] if is_number(best) and validations(run) else []
    return rules + ([{"step": resumed, "what": "resumed"}] if is_number(resumed) and resumed else [])


def _loss(run: RunFolder, rules: Sequence[Values]) -> Iterator[Chart]:
    points = charts.series(run.metrics, {"loss": "training", "validation_loss": "validation"})
    if points:
        yield Chart("loss", "Loss", charts.curves(points, "loss", rules))


def _validation(run: RunFolder, rules: Sequence[Values]) -> Iterator[Chart]:
    """The goal in full size, further metrics small."""
    lines, goal = validations(run), goal_of(run)
    names = dict.fromkeys(name for line in lines for name in with_prefix(line, "validation_"))
    wanted = [name for name in names if name != "loss" and not name.startswith(BASELINE)]
    wanted.sort(key=lambda name: name != goal)
    for place, name in enumerate(wanted[: SMALL_CHARTS + 1]):
        points = charts.series(lines, {f"validation_{name}": f"validation {title(name)}"})
        first = place == 0
        spec = charts.curves(points, title(name), rules if first else (), charts.TALL if first else charts.LOW)
        yield Chart(f"validation-{place}", f"Validation {title(name)}", spec, small=not first)


def _pace(run: RunFolder) -> Iterator[Chart]:
    for name, heading in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        if points := charts.series(run.metrics, {name: heading}):
            spec = charts.curves(points, heading.lower(), height=charts.LOW, zero=True)
            yield Chart(name.replace("_", "-"), heading, spec, small=True)


# --- data -------------------------------------------------------------------------------------------------------------


def data(run: RunFolder) -> Section:
    """The rows, what they are like, and what was done to them before training."""
    profile = part(run.profile, "sides")
    found = [*_labels(profile), *_lengths(profile)]
    tables = [*_sides(run, profile), *_prepared(run), *_sources(run)]
    warnings = [item for item in listed(run.profile, "warnings") if isinstance(item, dict)]
    return Section("data", "Data", _about_data(run), found, tables, warnings)


def _about_data(run: RunFolder) -> str:
    rows = part(run.data, "rows")
    total = sum(count for count in rows.values() if is_number(count))
    return f"{counted(total, 'row')} in all." if total else ""


def _sides(run: RunFolder, profile: Values) -> Iterator[Table]:
    rows = part(run.data, "rows")
    if not profile:
        sides = [*(side for side in SIDES if side in rows), *(side for side in rows if side not in SIDES)]
        yield Table("Rows", sides, [[rows[side] for side in sides]] if sides else [])
        return
    sides = [side for side in SIDES if side in profile]
    lines = []
    for side in sides:
        about, length = part(profile, side), part(part(profile, side), "lengths")
        cells = [about.get("rows"), about.get("duplicates"), about.get("empty")]
        lines.append([side, *cells, *(length.get(name) for name in ("median", "mean", "p95", "max"))])
    unit = next((unit for side in sides if (unit := part(part(profile, side), "lengths").get("unit"))), "units")
    columns = ["side", "rows", "duplicates", "nearly empty", *(f"{name} {unit}" for name in ("median", "mean", "p95"))]
    yield Table("Rows of each side", [*columns, f"longest {unit}"], lines)


def _labels(profile: Values) -> Iterator[Chart]:
    """Each label's share of each side, the largest in training first."""
    counts = {side: part(part(profile, side), "labels") for side in SIDES if side in profile}
    totals = {side: sum(labels.values()) or 1 for side, labels in counts.items()}
    names = dict.fromkeys(label for labels in counts.values() for label in sorted(labels, key=lambda one: -labels[one]))
    rows = [
        {"label": name, "side": side, "rows": labels.get(name, 0), "share": labels.get(name, 0) / totals[side]}
        for name in names
        for side, labels in counts.items()
    ]
    if len(names) > 1:
        note = "" if len(names) <= charts.MOST_BARS else f"The {charts.MOST_BARS} largest of {len(names)} labels."
        yield Chart("labels", "Labels", charts.shares(rows), note)


def _lengths(profile: Values) -> Iterator[Chart]:
    rows = []
    unit = "units"
    for side in (side for side in SIDES if side in profile):
        about = part(part(profile, side), "lengths")
        bins = [item for item in listed(about, "histogram") if isinstance(item, dict)]
        unit = str(about.get("unit", unit))
        total = sum(item["rows"] for item in bins) or 1
        steps = [{**item, "side": side, "share": item["rows"] / total} for item in bins]
        rows += steps + [{**item, "from": item["to"]} for item in steps[-1:]]
    if rows:
        yield Chart("lengths", "Lengths", charts.lengths(rows, unit))


PREPARED = {
    "cleaning": "Cleaning",
    "dedup": "Duplicates",
    "splits": "Splits",
    "balance": "Balance",
    "shots": "Few-shot",
    "augment": "Augmentation",
}


def _prepared(run: RunFolder) -> Iterator[Table]:
    """What the steps before training did, each as run.json tells it."""
    known = {"sha256", "rows", "labels", "sources"}
    for name, value in run.data.items():
        if name in known or value in (None, {}, []):
            continue
        heading = PREPARED.get(name, name)
        if name == "cleaning" and isinstance(value, dict):
            yield _steps(heading, value)
        elif isinstance(value, dict):
            yield Table(heading, WHAT, _facts(value))
        else:
            yield Table(heading, WHAT, [[heading, _cell(value)]])
    augment = part(part(run.config, "dataset"), "augment")
    if any(augment.values()) and "augment" not in run.data:
        yield Table(PREPARED["augment"], WHAT, _facts(augment))


def _steps(heading: str, steps: Values) -> Table:
    """Steps that each tell how many rows they changed and dropped."""
    columns = list(dict.fromkeys(name for step in steps.values() if isinstance(step, dict) for name in step))
    if not columns:
        return Table(heading, WHAT, _facts(steps))
    rows = [[title(name), *(_cell(part(steps, name).get(column, 0)) for column in columns)] for name in steps]
    return Table(heading, ["step", *columns], rows)


def _facts(values: Values) -> list[list[Any]]:
    known = {name: value for name, value in flat(values).items() if value not in (None, {}, [])}
    return [_bytes(name, value) or [title(name).replace(".", ": "), _cell(value)] for name, value in known.items()]


def _bytes(name: str, value: Any) -> list[Any] | None:
    """A size in GiB; None for what is no size."""
    stem = name.removesuffix("Bytes")
    return [title(stem).replace(".", ": "), f"{value / 2**30:.1f} GiB"] if stem != name and is_number(value) else None


def _cell(value: Any) -> Any:
    """A number as it is; anything else as words."""
    if is_number(value):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(_cell(item)) for item in value[:20]) + (" …" if len(value) > 20 else "")
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_cell(item)}" for name, item in value.items() if item is not None)
    return NONE if value is None else str(value)


def _sources(run: RunFolder) -> Iterator[Table]:
    sources = [source for source in listed(run.data, "sources") if isinstance(source, dict)]
    rows = [[source.get("uri"), source.get("rows"), str(source.get("sha256") or "")[:12]] for source in sources]
    if rows:
        yield Table("Sources", ("source", "rows", "sha-256"), rows)


# --- evaluation -------------------------------------------------------------------------------------------------------


@dataclass
class _Evaluation:
    """What is found while walking through an analysis."""

    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def evaluation(run: RunFolder) -> Section:
    """The error analysis: whatever parts this task has."""
    analysis, found = part(run.evaluation, "analysis"), _Evaluation()
    _confusion(run.evaluation, analysis, found)
    _per_class(run.evaluation, analysis, found)
    _calibration(analysis, found)
    _thresholds(analysis, found)
    _residuals(analysis, found)
    _entities(run.evaluation, analysis, found)
    _counts(analysis, found)
    _slices(analysis, found)
    return Section("evaluation", "Where it errs", "", found.charts, found.tables)


def _confusion(evaluation: Values, analysis: Values, found: _Evaluation) -> None:
    told = part(analysis, "confusion")
    labels = listed(told, "labels") or listed(evaluation, "labels")
    counts = listed(told, "counts") or listed(evaluation, "confusion")
    if len(labels) < 2 or len(counts) != len(labels):
        return
    note = "A row is what was right, a column what was said; the darker, the larger the share of that label's rows."
    note += " Rare labels are joined." if told.get("other") else ""
    if len(labels) <= 50:
        found.charts.append(Chart("confusion", "Confusion matrix", charts.confusion([*map(str, labels)], counts), note))
    mistakes = [
        [labels[true], labels[said], count]
        for true, row in enumerate(counts)
        for said, count in enumerate(row)
        if true != said and count
    ]
    if mistakes and len(labels) > 2:
        worst = sorted(mistakes, key=lambda line: -line[2])[:10]
        found.tables.append(Table("Most frequent mistakes", ("true", "predicted", "rows"), worst))


def _per_class(evaluation: Values, analysis: Values, found: _Evaluation) -> None:
    rows = _named(analysis.get("perClass") or evaluation.get("perClass"), "label")
    if rows:
        found.tables.append(_scores("Each label", rows, "label"))


def _named(table: Any, name: str) -> list[dict[str, Any]]:
    """A table whose rows have a name in them, or are values of an object by their names."""
    if isinstance(table, dict):
        return [{name: key, **value} for key, value in table.items() if isinstance(value, dict)]
    return [row for row in table or [] if isinstance(row, dict)]


def _scores(heading: str, rows: Sequence[Values], name: str) -> Table:
    """Precision, recall and F1 of each label, the weakest first."""
    columns = [column for column in ("precision", "recall", "f1", "support", "rows", "entities") if column in rows[0]]
    lines = [[row.get(name), *(row.get(column) for column in columns)] for row in rows]
    bar = columns.index("f1") + 1 if "f1" in columns else None
    if bar is not None:
        lines.sort(key=lambda line: _or(line[bar], 2))
    heads = [name, *(title(column) for column in columns)]
    return Table(heading, heads, lines[:MOST_ROWS], _cut(lines, "weakest first"), bar, sortable=True)


def _or(value: Any, other: float) -> float:
    return float(value) if is_number(value) else other


def _cut(lines: Sequence[Any], order: str) -> str:
    return f"The {MOST_ROWS} of {len(lines)}, {order}." if len(lines) > MOST_ROWS else ""


def _calibration(analysis: Values, found: _Evaluation) -> None:
    told = part(analysis, "calibration")
    bins = [item for item in listed(told, "bins") if isinstance(item, dict)]
    if any(item.get("rows") for item in bins):
        note = f"Expected calibration error {shown(told.get('ece'))}: 0 would be as sure as it is right."
        found.charts.append(Chart("reliability", "Calibration", charts.reliability(bins), note))


def _thresholds(analysis: Values, found: _Evaluation) -> None:
    table = [row for row in listed(analysis, "thresholds") if isinstance(row, dict)]
    if table:
        note = "What a higher or lower bar for a yes would bring on these rows."
        found.charts.append(Chart("thresholds", "Thresholds", charts.thresholds(table), note))
        columns = [name for name in table[0] if is_number(table[0][name])]
        rows = [[row.get(name) for name in columns] for row in table]
        found.tables.append(Table("Thresholds", [title(name) for name in columns], rows[:MOST_ROWS]))


def _residuals(analysis: Values, found: _Evaluation) -> None:
    told = part(analysis, "residuals")
    points = [point for point in listed(told, "points") if isinstance(point, dict)]
    if spec := charts.residual_points(points):
        found.charts.append(Chart("residuals", "Predicted over true", spec, "On the dashed line it is right."))
    if bins := listed(told, "histogram"):
        note = f"Mean of all errors: {shown(told.get('bias'))}."
        found.charts.append(Chart("residual-histogram", "Errors", charts.histogram(bins, "predicted minus true"), note))


def _entities(evaluation: Values, analysis: Values, found: _Evaluation) -> None:
    told = part(analysis, "entities")
    rows = _named(told.get("perType") or evaluation.get("perType"), "type")
    if rows:
        found.tables.append(_scores("Each type of entity", rows, "type"))
    _count_bars("entity-errors", "Entity errors", part(told, "errors"), found)


def _counts(analysis: Values, found: _Evaluation) -> None:
    _count_bars("spans", "Answers by how they overlap", part(analysis, "spans"), found)
    tables = {
        "substitutions": ("Words heard as others", ("reference", "said", "count")),
        "insertions": ("Words that nobody said", ("word", "count")),
        "deletions": ("Words left out", ("word", "count")),
    }
    for name, (heading, columns) in tables.items():
        rows = [[row.get(column) for column in columns] for row in listed(analysis, name) if isinstance(row, dict)]
        if rows:
            found.tables.append(Table(heading, columns, rows[:30]))


WORDS = {"wrongType": "wrong type", "wrongBoundary": "wrong boundary"}


def _count_bars(id_: str, heading: str, counts: Values, found: _Evaluation) -> None:
    rows = [{"name": WORDS.get(name, name), "value": count} for name, count in counts.items() if is_number(count)]
    if any(row["value"] for row in rows):
        found.charts.append(Chart(id_, heading, charts.bars(rows, "rows")))


def _slices(analysis: Values, found: _Evaluation) -> None:
    """One chart for each way to cut the rows, the weakest slice as it comes."""
    rows = [row for row in listed(analysis, "slices") if isinstance(row, dict) and is_number(row.get("value"))]
    for place, by in enumerate(dict.fromkeys(str(row.get("by")) for row in rows)):
        own = [row for row in rows if str(row.get("by")) == by]
        metric = str(own[0].get("metric", "value"))
        values = [{"name": str(row.get("slice")), "value": row["value"], "rows": row.get("rows")} for row in own]
        weights = [row.get("rows") or 0 for row in own]
        total = sum(weights)
        mean = sum(row["value"] * weight for row, weight in zip(own, weights, strict=True)) / total if total else None
        spec = charts.bars(values, title(metric), mean)
        found.charts.append(Chart(f"slices-{place}", f"{title(metric)} by {by}", spec, small=True))


# --- the rest ---------------------------------------------------------------------------------------------------------


def forgetting(run: RunFolder) -> Section:
    """A second data set before and after training."""
    told = part(run.evaluation, "forgetting")
    before, after = part(told, "before"), part(told, "after")
    names = [name for name in after if is_number(after[name]) and not name.startswith(BASELINE)]
    rows = [[title(name), before.get(name), after[name], _change(before.get(name), after[name])] for name in names]
    table = Table("", ("metric", "before", "after", "change"), rows)
    lead = "The same rows of another data set, before the first step and with the final weights."
    return Section("forgetting", "Forgetting", lead, tables=[table] if rows else [])


def _change(before: Any, after: Any) -> Any:
    return f"{after - before:+.3f}" if is_number(before) else None


def doubtful(run: RunFolder) -> Section:
    """Training rows whose label is probably wrong, as a cross-validation found them."""
    lines = [brief(row) for row in run.doubtful[:50]]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    rows = [[line.get(name, "") for name in columns] for line in lines]
    lead = "Training rows that models which never saw them took for another label; the most doubtful first."
    table = Table("", columns, rows, f"{counted(len(run.doubtful), 'row')}; label_issues.jsonl has them in full.")
    return Section("doubtful", "Doubtful labels", lead, tables=[table] if rows else [])


def environment(run: RunFolder) -> Section:
    """What the run ran on and with."""
    choices, about = part(run.record, "choices"), part(run.record, "environment")
    about = about or part(run.evaluation, "environment")
    model = {name: value for name, value in part(run.record, "model").items() if name != "sha256"}
    named = (("Hardware and system", about), ("Choices of the trainer", choices), ("Base model", model))
    tables = [Table(heading, WHAT, _facts(values)) for heading, values in named if values]
    versions = part(run.record, "versions")
    if versions:
        tables.append(
            Table("Versions", ("package", "version"), [[name, str(value)] for name, value in versions.items()])
        )
    return Section("environment", "Environment", tables=tables)


def cost(run: RunFolder, seconds: float | None) -> list[tuple[str, str]]:
    """What the run took, as far as it is known."""
    usage = part(run.record, "usage") or part(run.evaluation, "usage")
    paces = [line["tokens_per_second"] for line in run.metrics if is_number(line.get("tokens_per_second"))]
    found = [("Time", clock(seconds))] if seconds is not None else []
    if is_number(usage.get("tokens")) and run.task not in NO_TOKENS:
        found.append(("Tokens", f"{usage['tokens']:,}".replace(",", "\u2009")))
    if paces and run.task not in NO_TOKENS:
        found.append(("Tokens a second", shown(round(sorted(paces)[len(paces) // 2]))))
    if is_number(usage.get("energyJoules")):
        found.append(("Energy", energy(usage["energyJoules"])))
    known = ("seconds", "tokens", "energyJoules")
    further = {name: value for name, value in flat(dict(usage)).items() if name not in known and value is not None}
    return found + [(title(name), shown(_cell(value))) for name, value in further.items()]


def energy(joules: float) -> str:
    """In watt-hours, as bills have it."""
    hours = joules / 3600
    return f"{hours / 1000:.2f} kWh" if hours >= 1000 else f"{hours:.3g} Wh"
