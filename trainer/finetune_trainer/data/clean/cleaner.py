"""All steps of a run's cleaning in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from finetune_api.clean import Clean
from finetune_api.run import RunConfig
from finetune_trainer.data.clean import images, sounds, texts
from finetune_trainer.data.clean.step import Step
from finetune_trainer.data.columns import EmptyCell
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.tasks import TASKS

FIELD = "spec.dataset.clean"
EMPTY = "dropEmpty"
FILL = f"remove the row, or look at what {FIELD} takes from it"


class Cleaner:
    """Takes one row after the other; `steps` know what they did, and `rates` which rates the clips had."""

    def __init__(
        self, steps: Sequence[Step] = (), droppable: Collection[str] = (), rates: sounds.Rates | None = None
    ) -> None:
        self.steps = list(steps)
        self.rates = rates
        self.droppable = frozenset(droppable)

    def row(self, row: Row) -> Row | None:
        """The row as it is cleaned, or None if it is dropped."""
        cleaned: Row | None = row
        for step in self.steps:
            if (cleaned := step(row)) is None:
                return None
            row = cleaned
        return row

    def read(self, read: Callable[[], Row]) -> Row | None:
        """The row that `read` gives, cleaned; None if it is dropped, also for an input that has no value."""
        try:
            return self.row(read())
        except EmptyCell as error:
            if error.role not in self.droppable:
                raise
        next(step for step in self.steps if step.name == EMPTY).dropped += 1
        return None

    def record(self) -> dict[str, Any]:
        """What run.json says of it: what each step changed and dropped."""
        found: dict[str, Counter[str]] = {}
        for step in self.steps:
            if step.name != EMPTY or self.droppable:
                found.setdefault(step.name, Counter()).update(step.record())
        return {name: dict(done) for name, done in found.items()}

    def reports(self) -> dict[str, Any]:
        """The same as a report of preparation, with how many clips there are of each rate."""
        clips = {} if self.rates is None else {str(rate): count for rate, count in sorted(self.rates.clips.items())}
        return {"cleaning": self.record(), **({"sampleRates": clips} if self.rates else {})}


def cleaner_of(config: RunConfig) -> Cleaner:
    """The cleaning that the manifest asks for. Raises ConfigError for what its task has no use for."""
    task, clean = TASKS[config.task], config.dataset.clean
    _check(config)
    roles = texts.text_roles(task.roles)
    steps = _text_steps(clean, roles)
    read = [role for role in task.inputs if role in roles]
    if roles:
        steps.append(Step(EMPTY, partial(_not_blank, roles, task.inputs, clean.drop_empty)))
        steps += _lengths(clean, read)
    elif clean.drop_empty:
        steps.append(Step(EMPTY, lambda row: row))
    if images.ROLE in task.inputs:
        steps += images.image_steps(clean.drop_corrupt)
    rates = sounds.Rates() if sounds.ROLE in task.inputs else None
    if rates:
        steps += [*sounds.sound_steps(clean.audio, clean.drop_corrupt), rates.step()]
    return Cleaner(steps, task.inputs if clean.drop_empty else (), rates)


def input_cleaner(config: RunConfig) -> Cleaner:
    """What training did to its inputs, for rows to predict: none is dropped, and none is left without text."""
    task, clean = TASKS[config.task], config.dataset.clean
    roles = [role for role in texts.text_roles(task.roles) if role in task.inputs]
    steps = _text_steps(clean, roles)
    if sounds.ROLE in task.inputs:
        steps += sounds.trimming(clean.audio)
    for step in steps:
        step.work = partial(_unless_blank, roles, step.work)
    return Cleaner(steps)


def _text_steps(clean: Clean, roles: Sequence[str]) -> list[Step]:
    if not roles:
        return []
    return [Step(name, partial(_with_text, roles, step)) for name, step in texts.text_steps(clean).items()]


def _with_text(roles: Sequence[str], step: texts.TextStep, row: Row) -> Row:
    return replace(row, values=texts.clean_values(step, roles, row.values))


def _blank(row: Row, roles: Sequence[str]) -> str | None:
    """A role whose text is blank."""
    return next((role for role in roles if role in row.values and not texts.as_one(row.values[role]).strip()), None)


def _unless_blank(roles: Sequence[str], work: Callable[[Row], Row | None], row: Row) -> Row | None:
    after = work(row)
    return row if after is not None and _blank(after, roles) else after


def _not_blank(roles: Sequence[str], inputs: Sequence[str], drop: bool, row: Row) -> Row | None:
    """The row, if its text is still there."""
    role = _blank(row, roles)
    if role is None:
        return row
    if drop and role in inputs:
        return None
    raise DataError("EmptyValue", f"{row.place}: nothing is left of {role} when it is cleaned", FILL)


def _lengths(clean: Clean, roles: Sequence[str]) -> list[Step]:
    """Steps that drop texts that are too short or too long."""
    most, least = clean.max_chars, clean.min_chars
    steps = []
    if least > 1:
        steps.append(Step.dropping("minChars", lambda row: min(_counts(row, roles), default=least) >= least))
    if most is not None:
        steps.append(Step.dropping("maxChars", lambda row: max(_counts(row, roles), default=0) <= most))
    return steps


def _counts(row: Row, roles: Sequence[str]) -> list[int]:
    """The characters of each input that is text."""
    return [texts.length(row.values[role]) for role in roles if role in row.values]


def _check(config: RunConfig) -> None:
    """Raise ConfigError for a field that is set to something and finds nothing to work on in the task's rows."""
    task, clean = TASKS[config.task], config.dataset.clean
    has_text = bool(texts.text_roles(task.roles))
    has_input_text = any(role in texts.text_roles(task.roles) for role in task.inputs)
    has_media = images.ROLE in task.inputs or sounds.ROLE in task.inputs
    useless = {
        "stripHtml": clean.strip_html and (not has_text or "tokens" in task.inputs),
        "collapseWhitespace": clean.collapse_whitespace and not has_text,
        "minChars": clean.min_chars > 1 and not has_input_text,
        "maxChars": clean.max_chars is not None and not has_input_text,
        "dropCorrupt": clean.drop_corrupt and not has_media,
        "audio": clean.audio.to_dict() != {} and sounds.ROLE not in task.inputs,
    }
    for field, wrong in useless.items():
        if wrong:
            read = ", ".join(task.inputs)
            message = f"{FIELD}.{field}: {config.task} reads {read}, where it has nothing to do"
            raise ConfigError("NothingToClean", message, "leave it out")
