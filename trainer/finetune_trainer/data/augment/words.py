"""Words that are left out, swapped, replaced or misspelled (in the way of EDA, Wei and Zou 2019).

A word is what stands between blanks. Letters that are put in come from the same text, so its script stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy

from finetune_api.augment import TextAugment
from finetune_trainer.data.augment.draws import generator
from finetune_trainer.data.rows import Row

Generator = numpy.random.Generator
GAPS = re.compile(r"(\s+)")
WORD = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)
EDGES = ("B-", "E-", "L-")
"""Tags of the words at the edges of an entity: without them the tags between would say something else."""


class Rewording:
    """The changes that a manifest asks for."""

    def __init__(self, settings: TextAugment) -> None:
        self.settings = settings

    @cached_property
    def _synonyms(self) -> Mapping[str, Sequence[str]]:
        return {item.word.lower(): item.synonyms for item in self.settings.synonyms}

    def row(self, row: Row, roles: Sequence[str], seed: int) -> Row:
        """The row with the words of some roles changed; with words in a list its tags go along."""
        values: dict[str, Any] = dict(row.values)
        for role in roles:
            if isinstance(values.get(role), str):
                values[role] = self.text(values[role], generator(seed, role))
        if isinstance(values.get("tokens"), tuple) and "tags" in values:
            values["tokens"], values["tags"] = self.tagged(values["tokens"], values["tags"], generator(seed, "tokens"))
        return replace(row, values=values)

    def text(self, text: str, draw: Generator) -> str:
        """What stands between the words stays, apart from the gap before a word that is left out."""
        parts = GAPS.split(text.strip())
        words, gaps = parts[0::2], parts[1::2]
        kept = self._words(words, [""] * len(words), draw)
        pairs = zip(["", *gaps], kept, strict=True)
        return "".join(gap + word for gap, word in pairs if word is not None).strip()

    def tagged(
        self, words: Sequence[str], tags: Sequence[str], draw: Generator
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Words and tags. Only words of one tag are swapped, and none at an entity's edge is left out."""
        kept = self._words(words, tags, draw)
        pairs = [(word, tag) for word, tag in zip(kept, tags, strict=True) if word is not None]
        return tuple(word for word, _ in pairs), tuple(tag for _, tag in pairs)

    def _words(self, words: Sequence[str], tags: Sequence[str], draw: Generator) -> list[str | None]:
        """Each word, or None where it is left out."""
        replaced = [self._synonym(word, draw) for word in words]
        swapped = self._swapped(replaced, tags, draw)
        spelled = self._misspelled(swapped, draw)
        left_out = self._left_out(tags, draw)
        return [None if out else word for word, out in zip(spelled, left_out, strict=True)]

    def _synonym(self, word: str, draw: Generator) -> str:
        """Signs around the word stay, and so does a capital."""
        before, bare, after = WORD.fullmatch(word).groups()  # type: ignore[union-attr]
        others = self._synonyms.get(bare.lower(), ())
        if not others or draw.random() >= self.settings.synonym_probability:
            return word
        other = others[int(draw.integers(len(others)))]
        return f"{before}{other[:1].upper() + other[1:] if bare[:1].isupper() else other}{after}"

    def _swapped(self, words: Sequence[str], tags: Sequence[str], draw: Generator) -> list[str]:
        """No word is moved by more than one place."""
        result, place = list(words), 0
        chosen = draw.random(len(words)) < self.settings.word_swap
        while place + 1 < len(result):
            if chosen[place] and tags[place] == tags[place + 1]:
                result[place : place + 2] = result[place + 1], result[place]
                place += 1
            place += 1
        return result

    def _left_out(self, tags: Sequence[str], draw: Generator) -> numpy.ndarray:
        """At least one word stays."""
        fates = draw.random(len(tags))
        out = (fates < self.settings.word_dropout) & [not tag.startswith(EDGES) for tag in tags]
        if out.all():
            out[fates.argmax()] = False
        return out

    def _misspelled(self, words: Sequence[str], draw: Generator) -> list[str]:
        if not self.settings.character_noise:
            return list(words)
        letters = [letter for word in words for letter in word if letter.isalpha()]
        return [misspelled(word, letters, self.settings.character_noise, draw) for word in words]


def misspelled(word: str, letters: Sequence[str], probability: float, draw: Generator) -> str:
    """The word with each letter dropped, replaced, joined by another, or swapped with the next; never empty."""
    chosen, result, place = draw.random(len(word)) < probability, "", 0
    while place < len(word):
        letter, following = word[place], word[place + 1 : place + 2]
        if chosen[place] and letter.isalpha():
            other = letters[int(draw.integers(len(letters)))]
            kind = int(draw.integers(4))
            result += ("", other, letter + other, following + letter)[kind]
            place += kind == 3
        else:
            result += letter
        place += 1
    return result or word
