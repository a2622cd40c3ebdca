"""The figures of a run: its state, its metrics beside a guess and beside its gate, what it cost. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_trainer.pages.folder import RunFolder, Values, is_number, listed, part, with_prefix

BASELINE, TEST = "baseline_", "test_"
LOWER = ("loss", "mse", "mae", "rmse", "wer", "cer", "perplexity", "ece")
"""Metrics that are errors; their names may begin with the name of a part, or end with one."""
SHARES = ("accuracy", "f1", "precision", "recall", "roc_auc", "exact_match", "rouge")
HEADLINES = 4
NONE = "\u2013"
"""What stands where there is no value."""


@dataclass(frozen=True)
class State:
    """How a run stands: a word for its badge, the badge's tone (good, bad, open) and a sentence."""

    word: str
    tone: str
    sentence: str


@dataclass(frozen=True)
class Figure:
    """A metric on the test rows beside what a guess from the training rows alone reaches."""

    name: str
    value: float
    baseline: float | None = None
    validation: float | None = None
    is_goal: bool = False

    @property
    def better(self) -> bool | None:
        """Whether the model beats the guess; None where there is none."""
        if self.baseline is None:
            return None
        return self.value < self.baseline if lower_is_better(self.name) else self.value > self.baseline

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1 by its nature, so that a bar says something."""
        return any(share in self.name for share in SHARES) and 0 <= self.value <= 1


@dataclass(frozen=True)
class Gate:
    """A bound that a metric has to keep; `value` is None where it was not measured."""

    metric: str
    bound: str
    value: float | None
    passed: bool


def lower_is_better(name: str) -> bool:
    return any(word in LOWER for word in name.replace("@", "_").split("_"))


def goal_of(run: RunFolder) -> str | None:
    """The metric that says which evaluation was the best, without its prefix."""
    best = part(run.evaluation, "best").get("metric")
    if isinstance(best, str):
        return best.removeprefix("validation_")
    names = [name for name in run.measured if name.startswith(BASELINE)]
    return names[0].removeprefix(BASELINE) if names else next(iter(run.measured), None)


def figures_of(run: RunFolder) -> list[Figure]:
    """All test metrics, the goal first."""
    tested, validated, goal = run.measured, best_validation(run), goal_of(run)
    found = [
        Figure(name, value, tested.get(BASELINE + name), validated.get(name), name == goal)
        for name, value in tested.items()
        if not name.startswith(BASELINE)
    ]
    return sorted(found, key=lambda figure: not figure.is_goal)


def headlines_of(figures: Sequence[Figure]) -> list[Figure]:
    """Those that stand first: the goal, then what has a baseline, then the rest; the loss says least to people."""
    return sorted(figures, key=lambda one: (not one.is_goal, one.name == "loss", one.baseline is None))[:HEADLINES]


def validations(run: RunFolder) -> list[Values]:
    return [line for line in run.metrics if with_prefix(line, "validation_")]


def best_validation(run: RunFolder) -> dict[str, float]:
    """The metrics of the validation whose weights were kept: the best one, or else the last."""
    lines, best = validations(run), part(run.evaluation, "best").get("step")
    chosen = [line for line in lines if line.get("step") == best] or lines[-1:]
    return with_prefix(chosen[-1], "validation_") if chosen else {}


def gates_of(run: RunFolder) -> list[Gate]:
    """The bounds of spec.evaluation.gate as the evaluation judged them."""
    judged = [gate for gate in listed(run.evaluation, "gate") if isinstance(gate, dict)]
    return [Gate(str(gate.get("metric")), _bound(gate), gate.get("value"), bool(gate.get("passed"))) for gate in judged]


def _bound(gate: Values) -> str:
    words = [(gate.get("min"), "at least"), (gate.get("max"), "at most")]
    return " and ".join(f"{word} {shown(bound)}" for bound, word in words if bound is not None)


def _missed(gate: Gate) -> str:
    return f"{title(gate.metric.removeprefix(TEST))} is {shown(gate.value)} and has to be {gate.bound}"


def state_of(run: RunFolder) -> State:
    """From the files alone; the page is made while status.json still says that the run works."""
    phase, failure = run.status.get("phase"), part(run.status, "failure")
    missed = [gate for gate in gates_of(run) if not gate.passed]
    if run.evaluation and missed:
        words = [
            f"{title(gate.metric.removeprefix(TEST))} is {shown(gate.value)} and has to be {gate.bound}"
            for gate in missed
        ]
        return State("Gate failed", "bad", "; ".join(words) + ".")
    if phase == "Failed":
        return State(str(failure.get("class", "Failed")), "bad", str(failure.get("message", "")))
    if run.evaluation:
        return State("Finished", "good", "")
    progress = part(run.status, "progress")
    step, total = progress.get("step"), progress.get("totalSteps")
    where = f"It stands at step {step} of {total}." if total else "It has not begun to train."
    return State(str(phase or "Unfinished"), "open", f"This run has not finished. {where}")


def sentence_of(run: RunFolder, figures: Sequence[Figure]) -> str:
    """The result in one sentence."""
    goal = next((figure for figure in figures if figure.is_goal), None)
    if goal is None:
        return ""
    rows = part(run.data, "rows").get("test")
    where = f"On {counted(rows, 'test row')} that training never saw" if rows else "On the test rows"
    said = f"{where}, {title(goal.name)} is {shown(goal.value)}"
    if goal.baseline is None:
        return said + "."
    verdict = "better than" if goal.better else "no better than"
    return f"{said}: {verdict} the {shown(goal.baseline)} of a guess from the training rows alone."


def seconds_of(run: RunFolder) -> float | None:
    """Seconds of training, by what was counted, else by the clock of metrics.jsonl."""
    known = part(run.record, "usage").get("seconds")
    if known is not None and is_number(known):
        return float(known)
    times = [time for line in run.metrics if (time := instant(line.get("time"))) is not None]
    return (times[-1] - times[0]).total_seconds() if len(times) > 1 else None


def instant(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


@dataclass(frozen=True)
class Spread:
    """One metric over all folds of a cross-validation."""

    name: str
    values: Sequence[float | None]
    mean: float
    deviation: float | None


def spreads_of(crossed: Values) -> list[Spread]:
    """Each metric of a cross-validation, the baseline's last."""
    folds = [part(fold, "metrics") for fold in listed(crossed, "folds") if isinstance(fold, dict)]
    means, deviations = part(crossed, "mean"), part(crossed, "std")
    found = [
        Spread(name, [fold.get(name) for fold in folds], mean, deviations.get(name)) for name, mean in means.items()
    ]
    return sorted(found, key=lambda spread: spread.name.startswith(BASELINE))


def title(name: str) -> str:
    """A metric's name as people read it: `f1_macro` as `F1 (macro)`."""
    words = {"f1": "F1", "roc_auc": "ROC AUC", "mse": "MSE", "mae": "MAE", "rmse": "RMSE", "wer": "WER", "cer": "CER"}
    words |= {"r2": "R²", "bleu": "BLEU", "chrf": "chrF", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    words |= {"ece": "ECE"}
    if name.startswith(BASELINE):
        return f"{title(name.removeprefix(BASELINE))} of a guess"
    name = re.sub(r"([a-z])([A-Z][a-z])", lambda found: f"{found[1]} {found[2].lower()}", name)
    for kind in ("macro", "micro", "answerable", "unanswerable"):
        stem = name.removesuffix(f"_{kind}")
        if stem != name:
            return f"{words.get(stem, stem.replace('_', ' '))} ({kind})"
    return words.get(name, name.replace("_", " "))


def shown(value: Any) -> str:
    """A number as people read it; anything else as it is."""
    if not is_number(value):
        return NONE if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u2009")
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e7):
        return f"{value:.3g}"
    return f"{value:.3f}" if size < 10 else f"{value:.2f}" if size < 1000 else f"{value:,.0f}".replace(",", "\u2009")


def short_uri(uri: str) -> str:
    """A URI as people say it: a hub's repository, or the last two parts of a path."""
    if uri.startswith("hf://"):
        return uri.removeprefix("hf://")
    return "/".join(uri.split("://")[-1].rstrip("/").split("/")[-2:])


def counted(count: Any, word: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{shown(count)} {word}{'' if count == 1 else 's'}"


def clock(seconds: float | None) -> str:
    """`2 h 03 min`, `4 min 10 s`, `12 s`."""
    if seconds is None:
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested objects, and lists of objects, as one object with paths for names."""
    if isinstance(value, Mapping) and value:
        items = [(f"{path}.{name}" if path else str(name), item) for name, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = [(f"{path}[{place}]", item) for place, item in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for own, item in items for name, leaf in flat(item, own).items()}
