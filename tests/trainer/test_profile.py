"""What is told of rows before training: their numbers, and each warning when, and only when, there is reason for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile
from PIL import Image

from finetune_trainer.data.columns import Where, media
from finetune_trainer.data.profile import profile
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from support.tasks import rows_of

INPUTS = ("text",)
Values = Sequence[Mapping[str, Any]]


def healthy(rows: int, labels: Sequence[str] = ("good", "bad")) -> list[dict[str, Any]]:
    """Rows with nothing to say against: different texts of alike lengths, all labels alike often."""
    return [
        {"text": " ".join(f"{word}{number * 7 % 997}" for word in ("he", "saw", "it", "and", "went")), "label": label}
        for number, label in ((number, labels[number % len(labels)]) for number in range(rows))
    ]


def codes(train: Values, test: Values | None = None, inputs: Sequence[str] = INPUTS) -> list[str]:
    sides: dict[Side, Sequence[Row]] = {Side.TRAIN: rows_of(train)}
    if test is not None:
        sides[Side.TEST] = rows_of(test)
    return [warned["code"] for warned in profile(sides, inputs, "label")["warnings"]]


def test_rows_with_nothing_against_them_get_no_warning() -> None:
    assert codes(healthy(400), healthy(700)[400:]) == []


def test_the_numbers_of_a_side() -> None:
    rows = [{"text": "aaa bb", "label": "x"}, {"text": "aaa bb", "label": "x"}, {"text": "c", "label": "y"}]
    assert profile({Side.TRAIN: rows_of(rows)}, INPUTS, "label")["sides"]["train"] == {
        "rows": 3,
        "labels": {"x": 2, "y": 1},
        "lengths": {
            "unit": "characters",
            "histogram": [
                {"from": round(1 + number / 4, 3), "to": round(1.25 + number / 4, 3), "rows": rows}
                for number, rows in enumerate([1, *[0] * 18, 2])
            ],
            "mean": 4.33,
            "median": 6.0,
            "p95": 6.0,
            "max": 6.0,
        },
        "duplicates": 1,
        "empty": 1,
        "words": 3,
    }


def longer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows[:-1], {**rows[-1], "text": "word " * 300}]


def changed(rows: list[dict[str, Any]], count: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if place < count else row for place, row in enumerate(rows)]


CASES: Mapping[str, tuple[Callable[[], list[dict[str, Any]]], str]] = {
    "few rows": (lambda: healthy(99), "FewRows"),
    "few rows of a label": (lambda: changed(healthy(400), 9, label="rare"), "FewRowsOfLabel"),
    "uneven labels": (lambda: changed(healthy(420), 400, label="good"), "UnevenLabels"),
    "repeated inputs": (lambda: [*healthy(400), *healthy(10)], "Duplicates"),
    "one input, two labels": (lambda: [*healthy(400), {**healthy(1)[0], "label": "bad"}], "ConflictingTargets"),
    "a column with one value": (lambda: [{**row, "note": "n/a"} for row in healthy(400)], "ConstantColumn"),
    "texts of a letter": (lambda: changed(healthy(400), 30, text="x"), "NearEmptyTexts"),
    "a text far longer than the others": (lambda: longer(healthy(400)), "LongTail"),
    "rows from a template": (
        lambda: [{**row, "text": f"this is the one message of the day {n % 9}"} for n, row in enumerate(healthy(400))],
        "LittleVariety",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_training_rows_that_will_make_trouble_are_told(case: str) -> None:
    make, code = CASES[case]
    assert code in codes(make())


TEST_CASES: Mapping[str, tuple[list[dict[str, Any]], str]] = {
    "few test rows": (healthy(450)[400:], "FewTestRows"),
    "test rows in training": (healthy(120), "TestRowsInTraining"),
    "other shares of the labels": (changed(healthy(700)[400:], 200, label="good"), "OtherShares"),
    "a label that is not tested": (changed(healthy(700)[400:], 300, label="good"), "LabelNotTested"),
}


@pytest.mark.parametrize("case", TEST_CASES)
def test_test_rows_that_tell_little_are_told(case: str) -> None:
    rows, code = TEST_CASES[case]
    assert code in codes(healthy(400), rows)


def test_a_warning_has_the_numbers_and_what_to_do() -> None:
    assert profile({Side.TRAIN: rows_of(changed(healthy(420), 400, label="good"))}, INPUTS, "label")["warnings"][0] == {
        "code": "UnevenLabels",
        "message": "the labels are uneven: 410 training rows of 'good', 10 of 'bad'",
        "hint": "look at f1_macro rather than accuracy; try spec.dataset.balance (classWeights or oversample)",
    }


def test_lengths_of_sounds_are_seconds_and_of_images_pixels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", numpy.zeros(24_000), 16_000)
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    for role, name, unit, length in (("audio", "a.wav", "seconds", 1.5), ("image", "a.png", "pixels", 40.0)):
        value = media(str(tmp_path / name), Where("row 1", role, role))
        lengths = profile({Side.TRAIN: rows_of([{role: value}])}, (role,), None)["sides"]["train"]["lengths"]
        assert (lengths["unit"], lengths["max"]) == (unit, length)


def test_words_are_counted_where_rows_are_lists_of_words() -> None:
    rows = rows_of([{"tokens": ("a", "b", "c"), "tags": ("O", "O", "X")}])
    assert profile({Side.TRAIN: rows}, ("tokens",), None)["sides"]["train"]["lengths"]["unit"] == "words"
