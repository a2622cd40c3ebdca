"""Answers read from a text, judged as SQuAD does: exact match and shared words, after normalization."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

NO_ANSWER = ""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answers(guesses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """exact_match and f1: means over rows of the best score against any of the row's references.

    An empty guess says that there is no answer, and a row without references has none (SQuAD 2.0). Where there are
    rows of both sorts, their scores are also given apart: `f1_answerable`, `f1_unanswerable` and so on.
    """
    rows = [(guess, tuple(known) or (NO_ANSWER,)) for guess, known in zip(guesses, references, strict=True)]
    answerable = [row for row in rows if any(row[1])]
    unanswerable = [row for row in rows if not any(row[1])]
    values = _scores(rows, "")
    if answerable and unanswerable:
        values |= _scores(answerable, "_answerable") | _scores(unanswerable, "_unanswerable")
    return values


def normalize(text: str) -> str:
    """Small letters, without punctuation, articles and extra blanks."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(guess: str, reference: str) -> float:
    return float(normalize(guess) == normalize(reference))


def f1(guess: str, reference: str) -> float:
    """Of the words of both, each as often as it occurs; two empty answers agree."""
    guessed, known = Counter(normalize(guess).split()), Counter(normalize(reference).split())
    if not guessed or not known:
        return float(guessed == known)
    return 2 * (guessed & known).total() / (guessed.total() + known.total())


def _scores(rows: Sequence[tuple[str, tuple[str, ...]]], suffix: str) -> dict[str, float]:
    if not rows:
        return {}
    return {f"exact_match{suffix}": _mean(exact_match, rows), f"f1{suffix}": _mean(f1, rows)}


def _mean(score: Callable[[str, str], float], rows: Sequence[tuple[str, tuple[str, ...]]]) -> float:
    return fmean(max(score(guess, reference) for reference in known) for guess, known in rows)
