"""A split follows from the rows' content: it is stable, does not leak, and leaves no label out."""

from __future__ import annotations

from collections import Counter

import pytest

from finetune_trainer.data.columns import Where, image
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side, split

SHARES = {Side.TEST: 0.2, Side.VALIDATION: 0.1}


def some_rows(count: int, labels: int = 4) -> list[Row]:
    return [Row({"text": f"text {number}", "label": str(number % labels)}, "rows", number) for number in range(count)]


def sides_of(rows: list[Row], seed: int = 1, stratified: bool = True) -> dict[str, Side]:
    """Text to side."""
    sides = split(rows, ("text",), "label", seed, SHARES, list(SHARES) if stratified else [])
    return {row.values["text"]: side for side, members in sides.items() for row in members}


def test_each_side_gets_about_its_share_of_every_label() -> None:
    sides = sides_of(some_rows(4000))
    counts = Counter((int(text.split()[1]) % 4, side) for text, side in sides.items())
    for label in range(4):
        assert counts[label, Side.TEST] == pytest.approx(200, abs=40)
        assert counts[label, Side.VALIDATION] == pytest.approx(100, abs=30)


@pytest.mark.parametrize("stratified", [pytest.param(True, id="stratified"), pytest.param(False, id="plain")])
def test_rows_keep_their_sides_when_rows_come(stratified: bool) -> None:
    """Also when the new rows come first, and bring a new label."""
    before = sides_of(some_rows(300), stratified=stratified)
    new = [Row({"text": f"new {number}", "label": str(number % 5)}, "rows", number) for number in range(200)]
    after = sides_of(new + some_rows(300), stratified=stratified)
    assert {text: after[text] for text in before} == before


def test_equal_inputs_stay_together_whatever_their_label() -> None:
    rows = [Row({"text": f"text {number % 50}", "label": str(number % 3)}, "rows", number) for number in range(400)]
    sides = split(rows, ("text",), "label", 1, SHARES, list(SHARES))
    texts = [{row.values["text"] for row in members} for members in sides.values()]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 50


def test_another_seed_is_another_split() -> None:
    assert sides_of(some_rows(300), seed=1) != sides_of(some_rows(300), seed=2)


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param(1, id="one: to train on"),
        pytest.param(2, id="two: one is held out"),
        pytest.param(3, id="three: one for each side"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_rare_label_is_on_as_many_sides_as_it_has_rows(inputs: int, seed: int) -> None:
    rare = [Row({"text": f"rare {number}", "label": "rare"}, "rows", number) for number in range(inputs)]
    assigned = sides_of(some_rows(200) + rare, seed=seed)
    sides = {assigned[row.values["text"]] for row in rare}
    assert Side.TRAIN in sides
    assert len(sides) == inputs


def test_the_split_is_the_same_on_every_machine() -> None:
    """Written down: a change here moves rows of everybody's test split into training."""
    sides = sides_of(some_rows(40))
    held_out = [number for number in range(40) if sides[f"text {number}"] is Side.TEST]
    assert held_out == [6, 7, 11, 12, 18, 21, 27]


def test_without_classes_rows_stay_where_their_content_puts_them() -> None:
    """A task that has no label to stratify by moves no row, not even if the only row of a text is at stake."""
    rows = [Row({"text": f"text {number}"}, "rows", number) for number in range(40)]
    plain = split(rows, ("text",), None, 1, SHARES, [])
    assert split(rows, ("text",), None, 1, SHARES, list(SHARES)) == plain
    assert [int(row.values["text"].split()[1]) for row in plain[Side.TEST]] == [6, 7, 11, 12, 18, 21, 27]


def test_a_row_with_several_labels_is_of_one_stratum_whatever_their_order() -> None:
    rare = [("b", "a"), ("a", "b"), ("b", "a")]
    rows = [Row({"text": f"rare {number}", "label": label}, "rows", number) for number, label in enumerate(rare)]
    sides = split([*some_rows(200), *rows], ("text",), "label", 1, SHARES, list(SHARES))
    assert {side: sum(row in rows for row in members) for side, members in sides.items()} == dict.fromkeys(Side, 1)


def test_the_same_image_under_two_names_is_on_one_side() -> None:
    cells = [{"path": f"{number}.png", "bytes": bytes([number % 20])} for number in range(100)]
    rows = [
        Row({"image": image(cell, Where("row", "image", "image"))}, "rows", number) for number, cell in enumerate(cells)
    ]
    sides = split(rows, ("image",), None, 1, SHARES, [])
    contents = [{row.values["image"].sha256 for row in members} for members in sides.values()]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 20
