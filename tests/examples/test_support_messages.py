"""The example data set keeps what its data card says: enough texts, in balance, varied, and nobody's personal data."""

from __future__ import annotations

import csv
import io
import re
import string
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from itertools import combinations
from typing import NamedTuple

import pytest

DATA = files("finetune_examples").joinpath("support_messages.csv")
CARD = files("finetune_examples").joinpath("README.md")
MAX_SIMILARITY = 0.6
MAX_SHARE_OF_AN_OPENING = 0.02
MIN_VOCABULARY = 2000


class Message(NamedTuple):
    text: str
    label: str


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    with io.StringIO(DATA.read_bytes().decode("utf-8"), newline="") as file:
        return [Message(**row) for row in csv.DictReader(file, strict=True)]


@pytest.fixture(scope="module")
def words(messages: list[Message]) -> list[list[str]]:
    return [normalise(message.text).split() for message in messages]


def normalise(text: str) -> str:
    """Lower case, no digits, no punctuation, single spaces: what a filled-in template leaves unchanged."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.digits + string.punctuation)).split())


def token_set(words: list[str]) -> frozenset[str]:
    return frozenset(words)


def five_grams(words: list[str]) -> frozenset[str]:
    return frozenset(" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


def test_there_are_enough_messages_in_balanced_classes(messages: list[Message]) -> None:
    assert len(messages) >= 600
    assert Counter(message.label for message in messages) == {
        "account": 120,
        "advice": 120,
        "billing": 120,
        "defect": 120,
        "delivery": 120,
        "praise": 120,
    }


def test_the_data_card_states_the_counts_of_the_file(messages: list[Message]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", CARD.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {label: int(count) for label, count in rows} == Counter(message.label for message in messages)


def test_no_class_stands_in_one_block(messages: list[Message]) -> None:
    """A reader that takes the first or last part of the file still sees each class."""
    labels = {message.label for message in messages}
    assert {message.label for message in messages[:60]} == labels
    assert {message.label for message in messages[-60:]} == labels


def test_no_message_comes_twice(words: list[list[str]]) -> None:
    counts = Counter(" ".join(message) for message in words)
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(
    "features",
    [pytest.param(token_set, id="same words in any order"), pytest.param(five_grams, id="same phrases")],
)
def test_no_two_messages_are_variants_of_each_other(
    messages: list[Message], words: list[list[str]], features: Callable[[list[str]], frozenset[str]]
) -> None:
    pairs = combinations([(features(own), message.text) for own, message in zip(words, messages, strict=True)], 2)
    assert [(a, b) for (of_a, a), (of_b, b) in pairs if jaccard(of_a, of_b) > MAX_SIMILARITY] == []


def test_no_opening_is_a_template(words: list[list[str]]) -> None:
    openings = Counter(" ".join(message[:3]) for message in words)
    assert {o: n for o, n in openings.items() if n > MAX_SHARE_OF_AN_OPENING * len(words)} == {}


def test_the_vocabulary_is_that_of_many_subjects(words: list[list[str]]) -> None:
    assert len({word for message in words for word in message}) >= MIN_VOCABULARY


def test_lengths_are_those_of_short_mail(messages: list[Message]) -> None:
    lengths = [len(message.text.split()) for message in messages]
    assert min(lengths) >= 4
    assert max(lengths) <= 45
    assert sum(8 <= length <= 25 for length in lengths) > 0.8 * len(lengths)


def test_the_file_is_plain_text() -> None:
    """One line a record, LF, no byte order mark, nothing invisible; pounds and euros are the only other characters."""
    text = DATA.read_bytes().decode("utf-8")
    assert set(text) <= {*string.ascii_letters, *string.digits, *string.punctuation, " ", "\n", "£", "€"}
    assert text.endswith("\n")


def test_no_text_has_stray_space(messages: list[Message]) -> None:
    assert [message.text for message in messages if message.text != " ".join(message.text.split())] == []


@pytest.mark.parametrize(
    ("pattern", "example"),
    [
        pytest.param(r"\S@\S", "write to jo@home", id="e-mail address"),
        pytest.param(
            r"https?:|www\.|\b[\w-]+\.(com|net|org|info|shop|co|de|uk|eu)\b", "see shop.com", id="web address"
        ),
        pytest.param(r"\+\d|\d(?:[ ()/.-]*\d){6,}", "ring 0151 555-01 23", id="telephone, card or bank number"),
        pytest.param(r"\b\d+[a-z]? \w+ (street|road|lane|avenue)\b", "12 Mill Lane", id="street address"),
    ],
)
def test_no_message_holds_personal_data(messages: list[Message], pattern: str, example: str) -> None:
    find = re.compile(pattern, flags=re.IGNORECASE).search
    assert find(example), "the pattern finds what it is for"
    assert [message.text for message in messages if find(message.text)] == []
