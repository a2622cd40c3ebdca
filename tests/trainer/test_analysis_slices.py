"""Slices: rows that are alike in length, label, source or a column, each with the goal's metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile

from finetune_api.run import RunConfig
from finetune_trainer.analysis.slices import MOST_SLICES, lengths, slices
from finetune_trainer.data.media import Media
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError
from support.runs import a_run


def shown(values: list[Any], unit: str = "") -> list[tuple[str, list[int]]]:
    return [(part.name, list(part.places)) for part in slices("column", values, unit)]


TWENTY = list(range(20))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(["a"] * 5 + ["b"] * 6, [("b", [*range(5, 11)]), ("a", [*range(5)])], id="the frequent first"),
        pytest.param(["a"] * 6 + ["b"] * 4, [("a", [*range(6)])], id="none of fewer than five rows"),
        pytest.param(["a"] * 9, [], id="one slice says nothing"),
        pytest.param([None] * 5 + ["a"] * 5, [("(none)", [*range(5)]), ("a", [*range(5, 10)])], id="empty cells"),
        pytest.param([("a", "b")] * 5 + [("b",)] * 5, [("b", [*range(10)]), ("a", [*range(5)])], id="several labels"),
        pytest.param([()] * 5 + [("b",)] * 6, [("b", [*range(5, 11)]), ("(none)", [*range(5)])], id="no label"),
        pytest.param([1, 2] * 5, [("1", [0, 2, 4, 6, 8]), ("2", [1, 3, 5, 7, 9])], id="few different numbers"),
        pytest.param([True, False] * 5, [("False", [1, 3, 5, 7, 9]), ("True", [0, 2, 4, 6, 8])], id="yes and no"),
        pytest.param(
            [str(value) for value in TWENTY[:10]], [("0 to 4", TWENTY[:5]), ("5 to 9", TWENTY[5:10])], id="text"
        ),
        pytest.param([0.5] * 12 + TWENTY[:8], [("0 to 0.5", [*range(13)]), ("1 to 7", [*range(13, 20)])], id="ties"),
        pytest.param(["1", "2", "x", "4", "5", "6", "7"], [], id="not all of it is numbers"),
        pytest.param([], [], id="no rows"),
    ],
)
def test_slices(values: list[Any], expected: list[tuple[str, list[int]]]) -> None:
    assert shown(values) == expected


def test_numbers_are_cut_in_fifths_from_the_smallest() -> None:
    """Rows without a number come last."""
    values = [*(99.5 - number for number in range(100)), *[float("nan")] * 3, None, ""]
    found = shown(values, "characters")
    assert [name for name, _ in found] == [
        *(f"{start}.5 to {start + 19}.5 characters" for start in range(0, 100, 20)),
        "(none)",
    ]
    assert [len(places) for _, places in found] == [20] * 5 + [5]
    assert found[0][1] == [*range(80, 100)]


def test_of_many_values_the_most_frequent_are_shown() -> None:
    values = [f"v{number:02}" for number in range(30) for _ in range(5 + (number == 29))]
    names = [name for name, _ in shown(values)]
    assert names == ["v29", *(f"v{number:02}" for number in range(MOST_SLICES - 1))]


@pytest.mark.parametrize(
    ("values", "inputs", "expected"),
    [
        pytest.param({"text": "four", "label": "long label"}, ("text", "textPair"), 4, id="what the model reads"),
        pytest.param({"text": "four", "textPair": "fives"}, ("text", "textPair"), 9, id="a pair"),
        pytest.param({"tokens": ("New", "York")}, ("tokens",), 8, id="words"),
        pytest.param({"messages": [{"role": "user", "content": "Hi"}]}, ("text", "messages"), 2, id="messages"),
    ],
)
def test_lengths_are_in_characters(values: dict[str, Any], inputs: tuple[str, ...], expected: int) -> None:
    assert lengths([Row(values, "rows.jsonl", 1)], inputs) == ("characters", [expected])


def a_config(folder: Path, slices: list[str], **dataset: Any) -> RunConfig:
    """Twenty rows with the columns text, label, place and stars, as training rows or as `dataset` says."""
    cells = ["text,label,place,stars", *(f"text {row},{row % 2},{'AB'[row % 2]},{row}" for row in range(20))]
    (folder / "rows.csv").write_text("\n".join(cells))
    (folder / "bare.csv").write_text("text,label\n" + "\n".join(f"other {row},{row % 2}" for row in range(20)))
    run = a_run(folder, "./rows.csv", "./model").with_("evaluation", slices=slices)
    return RunConfig.model_validate(run.with_("dataset", **dataset).config)


def test_columns_to_slice_by_are_read_beside_those_of_the_roles(tmp_path: Path) -> None:
    """The model does not see them, and the data stays the same data."""
    data = load_data(a_config(tmp_path, ["stars", "place"]))
    for row in data.sides[Side.TEST]:
        number = row.values["text"].removeprefix("text ")
        assert row.extra == {"stars": number, "place": "AB"[int(number) % 2]}
        assert row.values.keys() == {"text", "label"}
    assert data.digest == load_data(a_config(tmp_path, [])).digest


def test_only_the_rows_that_are_tested_need_the_columns(tmp_path: Path) -> None:
    sources: dict[str, Any] = {"train": [{"uri": "./bare.csv"}], "test": {"sources": [{"uri": "./rows.csv"}]}}
    sides = load_data(a_config(tmp_path, ["place"], **sources, dedup={"acrossSplits": False})).sides
    assert {row.extra["place"] for row in sides[Side.TEST]} == {"A", "B"}
    assert {*sides[Side.TRAIN][0].extra} == set()


@pytest.mark.parametrize(
    ("dataset", "source"),
    [
        pytest.param({}, "rows", id="training rows"),
        pytest.param({"test": {"sources": [{"uri": "./bare.csv"}]}}, "bare", id="test rows"),
    ],
)
def test_a_column_that_is_not_there_is_refused(dataset: dict[str, Any], source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_data(a_config(tmp_path, ["text", "plase"], **dataset))
    assert refused.value.message == f"spec.evaluation.slices[1]: ./{source}.csv has no column 'plase'"
    assert ("did you mean place?" if source == "rows" else "label, text") in refused.value.hint


def sound(folder: Path, seconds: float) -> Media:
    path = folder / f"{seconds}.wav"
    soundfile.write(path, numpy.zeros(int(8000 * seconds)), 8000)
    return Media(path.name, str(path), None, "")


def test_sounds_without_text_are_as_long_as_they_take(tmp_path: Path) -> None:
    """From a file, or from the bytes that a table holds."""
    one, other = sound(tmp_path, 0.5), sound(tmp_path, 2)
    held = Media(other.name, None, other.read(), "")
    rows = [Row({"audio": media}, "clips", number) for number, media in enumerate((one, held), start=1)]
    assert lengths(rows, ("audio",)) == ("seconds", [0.5, 2.0])


def test_images_alone_have_no_length() -> None:
    assert lengths([Row({"image": Media("a.png", "a.png", None, "")}, "photos", 1)], ("image",)) is None
