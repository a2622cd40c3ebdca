"""Rows that stand in the data more than once are dropped, and a held-out row is never learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.run import RunConfig
from finetune_trainer.data.columns import Where, image
from finetune_trainer.data.dedup import check_dedup, without_duplicates, without_leaks
from finetune_trainer.data.near import Compared, nearly_equal, similarity
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row, Rows
from finetune_trainer.data.split import Side
from finetune_trainer.data.told import told
from finetune_trainer.errors import ConfigError, DataError
from support.corpora.files import write_json_lines
from support.runs import a_run
from support.tasks import rows_of

LONG = "The parcel came late, and nobody at the counter could say where it had been for all of the last two weeks."
NEAR = LONG.replace("two weeks.", "two weeks")
NEARER = LONG.lower().replace(",", " ,")
FAR = "Nobody at the counter could say why it was late, and for two weeks the parcel had been all over the place."


def a_config(task: str = "text-classification", folder: Path = Path("/nowhere"), **dataset: Any) -> RunConfig:
    run = a_run(folder, "./rows.jsonl", "./model").with_("dataset", **dataset)
    return RunConfig.model_validate({**run.config, "task": task})


def numbers(rows: Rows) -> list[int]:
    return [row.number for row in rows]


def labelled(*texts: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in texts]


@pytest.mark.parametrize(
    ("method", "rows", "kept", "found"),
    [
        pytest.param(
            "None", labelled(("a", "x"), ("a", "x")), [1, 2], {"withinTraining": 0}, id="nothing is asked for"
        ),
        pytest.param(
            "Exact",
            labelled(("a", "x"), ("b", "x"), ("a", "x"), ("A", "x")),
            [1, 2, 4],
            {"withinTraining": 1, "conflictingLabels": 0},
            id="equal rows: the first stays",
        ),
        pytest.param(
            "Exact",
            labelled(("a", "x"), ("a", "y"), ("a", "x"), ("b", "y")),
            [1, 2, 4],
            {"withinTraining": 1, "conflictingLabels": 1},
            id="equal texts with two labels are both kept, and counted",
        ),
        pytest.param(
            "MinHash",
            labelled((LONG, "x"), (FAR, "x"), (NEARER, "x"), (LONG, "x")),
            [1, 2],
            {"withinTraining": 2, "conflictingLabels": 0},
            id="nearly equal texts",
        ),
        pytest.param(
            "MinHash",
            labelled((LONG, "x"), (NEARER, "y")),
            [1, 2],
            {"withinTraining": 0, "conflictingLabels": 0},
            id="nearly equal texts with two labels",
        ),
    ],
)
def test_rows_that_an_earlier_one_says_are_dropped(
    method: str, rows: list[dict[str, Any]], kept: list[int], found: dict[str, int]
) -> None:
    after, counted = without_duplicates(Rows.of(rows_of(rows)), a_config(dedup={"method": method}))
    assert (numbers(after), counted) == (kept, found)


def test_the_same_question_with_another_answer_is_no_duplicate() -> None:
    rows = [{"prompt": LONG, "completion": answer} for answer in ("yes", "no", "yes")]
    after, found = without_duplicates(Rows.of(rows_of(rows)), a_config("text-generation", dedup={"method": "Exact"}))
    assert (numbers(after), found) == ([1, 2], {"withinTraining": 1})


def test_equal_images_under_two_names_are_one() -> None:
    cells = [{"path": f"{number}.png", "bytes": bytes([number % 2])} for number in range(4)]
    rows = [{"image": image(cell, Where("row", "image", "image")), "label": "x"} for cell in cells]
    after, _ = without_duplicates(Rows.of(rows_of(rows)), a_config("image-classification", dedup={"method": "Exact"}))
    assert numbers(after) == [1, 2]


def test_nearly_equal_texts_of_other_images_are_no_duplicates() -> None:
    pictures = [image({"bytes": bytes([number])}, Where("row", "image", "image")) for number in (1, 2, 1)]
    rows = [{"image": picture, "text": text} for picture, text in zip(pictures, (LONG, NEARER, NEARER), strict=True)]
    config = a_config("image-text-contrastive", dedup={"method": "MinHash"})
    assert numbers(without_duplicates(Rows.of(rows_of(rows)), config)[0]) == [1, 2]


@pytest.mark.parametrize("task", ["image-classification", "audio-classification", "automatic-speech-recognition"])
def test_texts_are_not_compared_where_none_are_read(task: str) -> None:
    with pytest.raises(ConfigError, match=r"spec.dataset.dedup.method: MinHash compares texts, and .* reads none"):
        check_dedup(a_config(task, dedup={"method": "MinHash"}))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("ab ", min_size=1, max_size=12), min_size=1, max_size=20), st.sampled_from([0.5, 0.7, 0.95]))
def test_every_row_that_is_dropped_is_nearly_equal_to_an_earlier_one(texts: list[str], threshold: float) -> None:
    """And equal texts are always found, however short they are."""
    compared = Compared(("text",), ())
    rows = rows_of([{"text": text} for text in texts])
    dropped = nearly_equal(Rows.of(rows), compared, threshold)
    runs = [compared.shingles(row) for row in rows]
    for place, gone in enumerate(dropped):
        alike = [similarity(runs[place], runs[other]) for other in range(place) if not dropped[other]]
        assert not gone or max(alike) >= threshold
        assert gone or 1.0 not in alike


@pytest.mark.parametrize(
    ("threshold", "found"), [pytest.param(0.9, True, id="alike enough"), pytest.param(0.95, False, id="not quite")]
)
def test_the_threshold_is_the_share_of_common_runs(threshold: float, found: bool) -> None:
    """The last two of 50 words differ: 46 runs of three words are common, of 50 in both."""
    words = [f"w{number}" for number in range(50)]
    texts = [" ".join(words), " ".join([*words[:-2], "x", "y"])]
    compared = Compared(("text",), ())
    rows = rows_of([{"text": text} for text in texts])
    assert similarity(*map(compared.shingles, rows)) == pytest.approx(46 / 50)
    assert list(nearly_equal(Rows.of(rows), compared, threshold)) == [False, found]


def leaks(rows: Mapping[Side, Sequence[Row]], **dedup: Any) -> tuple[list[int], dict[str, int]]:
    """Numbers of the training rows that are left, and what was counted; all sides are given as files."""
    every = Rows.of([row for some in rows.values() for row in some])
    sides, start = {}, 0
    for side, some in rows.items():
        sides[side], start = Rows(every.table, range(start, start + len(some))), start + len(some)
    given = {"sources": [{"uri": "./held-out.jsonl"}]}
    kept, found = without_leaks(sides, a_config(validation=given, test=given, dedup=dedup))
    return numbers(kept), found


SIDES = {
    Side.TRAIN: rows_of(labelled(("a", "x"), ("b", "x"), (NEAR, "x"), ("c", "y"), ("a", "y"))),
    Side.TEST: rows_of(labelled(("a", "y"), (LONG, "y"))),
    Side.VALIDATION: rows_of(labelled(("c", "y"), ("a", "x"))),
}


@pytest.mark.parametrize(
    ("dedup", "kept", "found"),
    [
        pytest.param({}, [2, 3], {"test": 2, "validation": 1}, id="by default equal inputs, whatever their labels"),
        pytest.param({"method": "MinHash"}, [2], {"test": 3, "validation": 1}, id="nearly equal ones, too"),
        pytest.param({"acrossSplits": False}, [1, 2, 3, 4, 5], {}, id="turned off"),
    ],
)
def test_what_is_held_out_is_dropped_from_training(
    dedup: dict[str, Any], kept: list[int], found: dict[str, int]
) -> None:
    assert leaks(SIDES, **dedup) == (kept, found)


def test_inputs_that_a_split_by_groups_parts_are_dropped_from_training(tmp_path: Path) -> None:
    rows = [{"text": f"text {number % 40}", "label": str(number % 2), "user": number % 10} for number in range(90)]
    rows += [{"text": f"text {number}", "label": str(number % 2), "user": number % 7} for number in range(40)]
    write_json_lines(tmp_path / "rows.jsonl", rows)
    held_out = {side: {"fraction": 0.2, "groupBy": "user"} for side in ("validation", "test")}
    data = load_data(a_config(folder=tmp_path, **held_out))
    inputs = {side: {row.values["text"] for row in rows} for side, rows in data.sides.items()}
    assert not inputs[Side.TRAIN] & (inputs[Side.TEST] | inputs[Side.VALIDATION])
    assert sum(data.record()["dedup"]["acrossSplits"].values()) == 130 - sum(map(len, data.sides.values())) > 0


def test_a_run_says_what_it_dropped(tmp_path: Path) -> None:
    rows = labelled(*((f"text {number}", str(number % 2)) for number in range(40)))
    write_json_lines(tmp_path / "rows.jsonl", [*rows, *rows[:5], {"text": "text 1", "label": "0"}])
    write_json_lines(tmp_path / "test.jsonl", rows[:3])
    test = {"sources": [{"uri": "./test.jsonl"}]}
    data = load_data(a_config(folder=tmp_path, test=test, dedup={"method": "Exact"}))
    found = data.record()["dedup"]
    assert found == {
        "method": "Exact",
        "withinTraining": 5,
        "conflictingLabels": 1,
        "acrossSplits": {"validation": 0, "test": found["acrossSplits"]["test"]},
    }
    assert list(told(data.reports)) == [
        "duplicates: 5 rows dropped (Exact)",
        "duplicates: 1 inputs come with several labels; all of them are kept",
        f"leak: {found['acrossSplits']['test']} training rows are in test, too, and were dropped from training",
    ]
    assert sum(map(len, data.sides.values())) == 41 - found["acrossSplits"]["test"] + 3


def test_a_run_whose_rows_are_all_held_out_says_so(tmp_path: Path) -> None:
    rows = labelled(("a", "x"), ("b", "y"))
    write_json_lines(tmp_path / "rows.jsonl", rows)
    given = {"sources": [{"uri": "./rows.jsonl"}]}
    with pytest.raises(DataError, match="none of 2 rows is left to train on") as caught:
        load_data(a_config(folder=tmp_path, test=given, validation=given))
    assert "those that are in validation or test, too, do not count" in str(caught.value.hint)
