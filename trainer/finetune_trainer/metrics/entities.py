"""Tags of words: whole entities, as seqeval (and conlleval before it) finds them, or each tag by itself.

Entities are read leniently from IOB1, IOB2, IOE1, IOE2 and IOBES alike: they also start at an I or E that continues
nothing. One counts as found if type, first and last word are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

OUTSIDE = "O"
PREFIXES = frozenset("BIES")
STARTS = frozenset("BS")
ENDS = frozenset("ES")

Tags = Sequence[Sequence[str]]
"""A tag for each word of each row."""


@dataclass(frozen=True, order=True)
class Entity:
    """Words `first` to `last` (both included) of a row."""

    row: int
    type: str
    first: int
    last: int


def tags(truth: Tags, guess: Tags) -> dict[str, float]:
    """Values of two lists of equal lengths, row by row.

    Entity tags give precision, recall and f1 over all entities (0 where there are none); other tags, such as
    parts of speech, f1_macro. Both give accuracy, the share of words whose tag is right.
    """
    flat_truth, flat_guess = list(chain.from_iterable(truth)), list(chain.from_iterable(guess))
    right = sum(a == b for a, b in zip(flat_truth, flat_guess, strict=True))
    values = {"accuracy": right / len(flat_truth)} if flat_truth else {}
    if not all(map(is_entity_tag, flat_truth + flat_guess)):
        return values | _macro(flat_truth, flat_guess)
    wanted, found = set(entities(truth)), set(entities(guess))
    scores = precision_recall_f1(len(wanted & found), len(wanted), len(found))
    return values | dict(zip(("precision", "recall", "f1"), scores, strict=True))


def entities(rows: Tags) -> Iterator[Entity]:
    """The entities of each row, in their order."""
    for number, row in enumerate(rows):
        starts = [word for word in range(len(row)) if row[word] != OUTSIDE and not _continues(row, word)]
        for first in starts:
            last = first
            while last + 1 < len(row) and _continues(row, last + 1):
                last += 1
            yield Entity(number, _type(row[first]), first, last)


def is_entity_tag(tag: str) -> bool:
    """Whether it is O, or one of B, I, E, S, alone or before a type as in B-PER."""
    return tag == OUTSIDE or (tag[:1] in PREFIXES and tag[1:2] in ("", "-"))


def _continues(row: Sequence[str], word: int) -> bool:
    """Whether a word belongs to the entity of the word before it."""
    if word == 0 or OUTSIDE in (row[word - 1], row[word]):
        return False
    before, tag = row[word - 1], row[word]
    return before[0] not in ENDS and tag[0] not in STARTS and _type(before) == _type(tag)


def _type(tag: str) -> str:
    return tag[2:] or "_"


def precision_recall_f1(right: int, wanted: int, found: int) -> tuple[float, float, float]:
    """From how many entities there are, how many were found, and how many of those are right; 0 where undefined."""
    return (
        right / found if found else 0.0,
        right / wanted if wanted else 0.0,
        2 * right / (wanted + found) if wanted or found else 0.0,
    )


def _macro(truth: list[str], guess: list[str]) -> dict[str, float]:
    """O, the guess for words that were not seen, is a class of its own only where some words are O."""
    from sklearn import metrics  # type: ignore[import-untyped]

    classes = sorted({*truth, *guess} - ({OUTSIDE} - {*truth}))
    return {"f1_macro": float(metrics.f1_score(truth, guess, labels=classes, average="macro", zero_division=0.0))}
