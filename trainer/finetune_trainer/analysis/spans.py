"""How answers lie to those that were wanted."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.metrics import reading

Span = tuple[str, int]
"""A text, and the character of the context that it starts at."""
KINDS = ("exact", "overlapping", "disjoint", "missed", "spurious")


def spans(guesses: Sequence[Span | None], references: Sequence[Sequence[Span]]) -> dict[str, int]:
    """How many rows are of each kind; None says that there is no answer, and a row without references has none.

    `exact` is what exact_match counts, rightly said to have no answer included. `missed` has an answer and was said to
    have none, with `spurious` it is the other way round.
    """
    kinds = [_kind(guess, known) for guess, known in zip(guesses, references, strict=True)]
    return {kind: kinds.count(kind) for kind in KINDS}


def _kind(guess: Span | None, known: Sequence[Span]) -> str:
    said = reading.NO_ANSWER if guess is None else guess[0]
    if any(reading.exact_match(said, text) for text, _ in known or [(reading.NO_ANSWER, 0)]):
        return "exact"
    if guess is None or not known:
        return "missed" if known else "spurious"
    return "overlapping" if any(_meet(guess, span) for span in known) else "disjoint"


def _meet(one: Span, other: Span) -> bool:
    """Whether two spans share a character."""
    (text, start), (other_text, other_start) = one, other
    return start < other_start + len(other_text) and other_start < start + len(text)
