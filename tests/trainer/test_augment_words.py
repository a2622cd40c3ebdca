"""Words that are left out, swapped, replaced and misspelled: each change by itself, and all by one seed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from finetune_api.augment import TextAugment
from finetune_trainer.data.augment.draws import generator
from finetune_trainer.data.augment.words import Rewording
from finetune_trainer.data.rows import Row

TEXT = "The parcel, which came late,\n was not what we had  hoped for!"
WORDS = TEXT.split()
SYNONYMS = [{"word": "Parcel", "synonyms": ["package"]}, {"word": "late", "synonyms": ["too late", "tardily"]}]
SEEDS = range(200)


def rewording(**settings: Any) -> Rewording:
    return Rewording(TextAugment.model_validate(settings))


def variants(text: str = TEXT, **settings: Any) -> list[str]:
    """The text as each of many seeds changes it."""
    words = rewording(**settings)
    return [words.text(text, generator(seed, "text")) for seed in SEEDS]


def test_without_settings_a_text_stays() -> None:
    assert set(variants()) == {TEXT}


def test_dropout_leaves_words_out_and_the_others_in_order() -> None:
    found = variants(wordDropout=0.3)
    lengths = [len(text.split()) for text in found]
    assert sum(lengths) / len(lengths) == pytest.approx(0.7 * len(WORDS), abs=0.4)
    for text in found:
        left = iter(WORDS)
        assert all(word in left for word in text.split())


def test_dropout_leaves_at_least_one_word() -> None:
    assert set(variants(" One word ", wordDropout=0.9)) == {"One", "word", "One word"}


def test_swap_moves_words_by_one_place_at_most() -> None:
    found = variants(wordSwap=0.5)
    assert all(Counter(text.split()) == Counter(WORDS) for text in found)
    assert all(abs(WORDS.index(word) - place) <= 1 for text in found for place, word in enumerate(text.split()))
    assert sum(text != TEXT for text in found) > len(found) / 2


def test_synonyms_keep_capitals_and_signs() -> None:
    """And are as often as the manifest says, each as likely as the others."""
    found = variants("Parcel, late! (parcel)", synonyms=SYNONYMS, synonymProbability=0.5)
    words = Counter(text.split(", ")[0] for text in found)
    assert words["Package"] == pytest.approx(100, abs=25)
    rest = Counter(text.split(", ")[1] for text in found)
    assert set(rest) == {
        f"{late}! ({what})" for late in ("late", "too late", "tardily") for what in ("parcel", "package")
    }


def test_character_noise_changes_letters_only() -> None:
    """No word is lost, and what is put in are letters of the text."""
    found = variants(characterNoise=0.2)
    assert all(len(text.split()) == len(WORDS) for text in found)
    assert all(set(text) <= set(TEXT) for text in found)
    assert all([text.count(sign) for sign in ",!\n"] == [TEXT.count(sign) for sign in ",!\n"] for text in found)
    assert len(set(found)) > 190


def test_turning_one_change_on_moves_no_gap() -> None:
    """Line ends and double blanks between the words that stay are the writer's."""
    assert all("late,\n was" in text or "late," not in text or " was" not in text for text in variants(wordDropout=0.1))


def test_a_seed_says_it_all() -> None:
    settings = {"wordDropout": 0.2, "wordSwap": 0.2, "characterNoise": 0.1, "synonyms": SYNONYMS}
    assert variants(**settings) == variants(**settings)
    assert len(set(variants(**settings))) > 190


def test_only_the_named_roles_change() -> None:
    row = Row({"text": TEXT, "textPair": TEXT, "label": TEXT}, "rows.csv", 3, 2.0)
    changed = rewording(wordDropout=0.5).row(row, ("text", "textPair"), 7)
    assert changed.values["label"] == TEXT
    assert len({TEXT, changed.values["text"], changed.values["textPair"]}) == 3
    assert (changed.place, changed.weight, row.values["text"]) == (row.place, 2.0, TEXT)


TOKENS = ("Ada", "Lovelace", "the", "great", "lived", "in", "New", "York", "City", "Hall", "once")
TAGS = ("B-PER", "I-PER", "O", "O", "O", "O", "B-LOC", "I-LOC", "I-LOC", "E-LOC", "O")


def tagged(**settings: Any) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    words = rewording(**settings)
    return [words.tagged(TOKENS, TAGS, generator(seed, "tokens")) for seed in SEEDS]


def test_a_word_that_is_left_out_takes_its_tag_along() -> None:
    """And entities keep their first and last word."""
    tag_of = dict(zip(TOKENS, TAGS, strict=True))
    found = tagged(wordDropout=0.5)
    assert all(tuple(tag_of[word] for word in words) == tags for words, tags in found)
    assert all({"Ada", "New", "Hall"} <= set(words) for words, _ in found)
    assert {"once", "York"} <= {word for words, _ in found for word in set(TOKENS) - set(words)}


def test_only_words_of_one_tag_are_swapped() -> None:
    tag_of = dict(zip(TOKENS, TAGS, strict=True))
    found = tagged(wordSwap=0.5)
    assert all(tags == TAGS and tuple(tag_of[word] for word in words) == TAGS for words, tags in found)
    assert any(words != TOKENS for words, _ in found)


def test_misspelled_words_keep_their_tags() -> None:
    found = tagged(characterNoise=0.3)
    assert all(len(words) == len(TOKENS) and all(words) and tags == TAGS for words, tags in found)
    assert any(words != TOKENS for words, _ in found)
