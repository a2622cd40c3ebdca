"""Entities that were found, and in what way the others went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from finetune_trainer.analysis.confusion import MOST_CLASSES, score_row
from finetune_trainer.metrics.entities import Entity, Tags, entities, precision_recall_f1

KINDS = ("missed", "spurious", "wrongType", "wrongBoundary")


def entity_errors(truth: Tags, guess: Tags) -> dict[str, Any]:
    """`perType`, the most frequent first, and how many `errors` of each kind there are.

    An entity and a guess that share words, and are not the same, are one error: of the type where they are the same
    words, else of the boundary where they have the same type, else of the type again. What is left over was missed,
    or is spurious.
    """
    wanted, found = set(entities(truth)), set(entities(guess))
    errors = Counter(dict.fromkeys(KINDS, 0))
    missing, extra = _by_row(wanted - found), _by_row(found - wanted)
    for row in missing.keys() | extra.keys():
        errors.update(_errors(missing.get(row, []), extra.get(row, [])))
    return {"perType": _per_type(wanted, found), "errors": dict(errors)}


def _by_row(some: Iterable[Entity]) -> dict[int, list[Entity]]:
    """The entities of each row, from its first word to its last."""
    ordered = sorted(some, key=lambda entity: (entity.row, entity.first))
    return {row: list(own) for row, own in groupby(ordered, key=lambda entity: entity.row)}


def _errors(missing: list[Entity], extra: list[Entity]) -> dict[str, int]:
    """The errors of one row, by kind."""
    wrong_type = _pair_off(missing, extra, _same_words)
    wrong_boundary = _pair_off(missing, extra, lambda one, other: one.type == other.type and _meet(one, other))
    wrong_type += _pair_off(missing, extra, _meet)
    return dict(zip(KINDS, (len(missing), len(extra), wrong_type, wrong_boundary), strict=True))


def _pair_off(missing: list[Entity], extra: list[Entity], alike: Callable[[Entity, Entity], bool]) -> int:
    """Take those out of both lists that are alike; returns how many pairs there were."""
    pairs = 0
    for one in list(missing):
        other = next((other for other in extra if alike(one, other)), None)
        if other is not None:
            missing.remove(one)
            extra.remove(other)
            pairs += 1
    return pairs


def _same_words(one: Entity, other: Entity) -> bool:
    return (one.first, one.last) == (other.first, other.last)


def _meet(one: Entity, other: Entity) -> bool:
    return one.first <= other.last and other.first <= one.last


def _per_type(wanted: set[Entity], found: set[Entity]) -> list[dict[str, Any]]:
    rows, guesses, right = (Counter(entity.type for entity in some) for some in (wanted, found, wanted & found))
    types = sorted(rows | guesses, key=lambda type_: (-rows[type_], type_))[:MOST_CLASSES]
    return [
        score_row("type", type_, *precision_recall_f1(right[type_], rows[type_], guesses[type_]), rows[type_])
        for type_ in types
    ]
