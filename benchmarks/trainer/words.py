"""Texts of made-up words, drawn by seed, with the lengths that real data sets have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvwz" for vowel in "aeiou"]
MARKED = 0.2
"""Share of the words of a text that tell its class."""
TELLING = 40
"""Words that each class has of its own."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a row: log-normal with this mean and spread of the logarithm, between `least` and `most`."""

    mean: float
    spread: float
    least: int
    most: int

    def draw(self, count: int, random: numpy.random.Generator) -> list[int]:
        logarithms = random.normal(math.log(self.mean) - self.spread**2 / 2, self.spread, count)
        found: list[int] = numpy.exp(logarithms).round().clip(self.least, self.most).astype(int).tolist()
        return found


def vocabulary(size: int) -> list[str]:
    """`size` different words of three syllables, or four where those run out."""
    base = len(SYLLABLES)
    letters = 3 if size <= base**3 else 4
    return ["".join(SYLLABLES[number // base**place % base] for place in range(letters)) for number in range(size)]


class Writer:
    """Draws texts from a vocabulary: few words are frequent and most are rare, as in a language (Zipf)."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        self.words = list(words)
        self.random = numpy.random.Generator(numpy.random.PCG64([seed, len(words)]))
        weights = 1.0 / (numpy.arange(len(words)) + 2.7)
        self._shares = numpy.cumsum(weights / weights.sum())

    def text(self, length: int, label: int | None = None) -> list[str]:
        """That many words; some of them tell the `label`, if there is one."""
        drawn = numpy.searchsorted(self._shares, self.random.random(length)).clip(0, len(self.words) - 1)
        if label is not None:
            marks = self.random.random(length) < MARKED
            marks[self.random.integers(length)] = True
            first = len(self.words) // 2 + TELLING * label
            drawn = numpy.where(marks, (first + self.random.integers(TELLING, size=length)) % len(self.words), drawn)
        return [self.words[number] for number in drawn]
