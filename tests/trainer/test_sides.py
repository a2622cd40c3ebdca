"""Rows may be split by groups, which are never parted, or by time: which rows they are is written down and stable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.manifest import problems_of
from finetune_api.run import Fold, RunConfig
from finetune_trainer.data.folds import of_fold
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side, by_group
from finetune_trainer.data.times import by_time
from finetune_trainer.errors import ConfigError, DataError, RunError
from support.corpora.files import write_json_lines
from support.runs import a_run

SHARES = {Side.TEST: 0.2, Side.VALIDATION: 0.1}
ORDER = [Side.TRAIN, *SHARES]


def rows_with(column: str, cells: Sequence[Any]) -> list[Row]:
    return [
        Row({"text": f"text {number}", "label": str(number % 2)}, "rows", number, extra={column: cell})
        for number, cell in enumerate(cells, start=1)
    ]


def grouped(groups: Sequence[Any], seed: int = 1) -> dict[Any, set[Side]]:
    """Group to the sides that it has rows on."""
    found: dict[Any, set[Side]] = {}
    for group, side in zip(
        groups, by_group(rows_with("user", groups), "user", "field", seed, SHARES).sides, strict=True
    ):
        found.setdefault(group, set()).add(ORDER[side])
    return found


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1), st.lists(st.integers(0, 90)), st.integers(0, 9))
def test_a_group_is_on_one_side_and_stays_there_when_rows_come(before: list[int], new: list[int], seed: int) -> None:
    first = grouped([*range(100), *before], seed)
    assert {len(sides) for sides in first.values()} == {1}
    after = grouped([*new, *before, *range(100), "another"], seed)
    assert {group: after[group] for group in first} == first


def test_each_side_gets_about_its_share_of_the_groups() -> None:
    found = by_group(rows_with("user", [number // 2 for number in range(4000)]), "user", "field", 1, SHARES)
    assert found.moved == 0
    assert sum(found.units.values()) == 2000
    assert found.units[Side.TEST] == pytest.approx(400, abs=50)
    assert found.units[Side.VALIDATION] == pytest.approx(200, abs=40)


@pytest.mark.parametrize("seed", range(8))
def test_three_groups_are_enough_for_three_sides(seed: int) -> None:
    assert {side for sides in grouped(["a", "b", "c"] * 4, seed).values() for side in sides} == set(Side)


def test_the_number_1_and_the_text_1_are_one_group() -> None:
    """What a column of Parquet and one of CSV hold for the same group."""
    assert grouped([1, 2, 3])[2] == grouped(["1", "2", "3"])["2"] == grouped([1.0, 2.0, 3.0])[2.0]


def sides_by_time(times: Sequence[Any], shares: Mapping[Side, float] = SHARES) -> tuple[list[Side], dict[Side, str]]:
    sides, cuts = by_time(rows_with("at", times), "at", "field", shares)
    return [[Side.TRAIN, *shares][side] for side in sides], cuts


DAYS = [f"2026-05-{day:02}" for day in (3, 1, 10, 7, 5, 2, 9, 8, 6, 4)]


def test_the_newest_rows_are_tested_and_those_before_them_validate() -> None:
    sides, cuts = sides_by_time(DAYS)
    by_day = dict(zip(DAYS, sides, strict=True))
    assert [by_day[day] for day in sorted(DAYS)] == [Side.TRAIN] * 7 + [Side.VALIDATION] + [Side.TEST] * 2
    assert cuts == {Side.TEST: "2026-05-09T00:00:00+00:00", Side.VALIDATION: "2026-05-08T00:00:00+00:00"}


@settings(deadline=None)
@given(st.lists(st.integers(-5, 20), min_size=10), st.randoms(use_true_random=False))
def test_time_alone_decides(times: list[int], random: Any) -> None:
    """No older row is on a later side, rows of one time are together, and the order of rows is nothing to it."""
    sides, _ = sides_by_time(times)
    rank = {Side.TRAIN: 0, Side.VALIDATION: 1, Side.TEST: 2}
    pairs = sorted(zip(times, (rank[side] for side in sides), strict=True))
    assert [side for _, side in pairs] == sorted(side for _, side in pairs)
    assert len({time for time, _ in pairs}) == len(set(pairs))
    assert sides.count(Side.TEST) >= round(len(times) * 0.2)
    shuffled = random.sample(range(len(times)), len(times))
    assert sides_by_time([times[place] for place in shuffled])[0] == [sides[place] for place in shuffled]


@pytest.mark.parametrize(
    ("times", "cut"),
    [
        pytest.param([1, 2, 3, 4], "4", id="numbers"),
        pytest.param(["1.5", "2.5", "3"], "3", id="numbers as text"),
        pytest.param(["2026-01-01T00:00:00+02:00", "2025-12-31T23:00:00"], "2025-12-31T23:00:00+00:00", id="zones"),
        pytest.param(["2026-01-01 08:00:00", "2026-01-02"], "2026-01-02T00:00:00+00:00", id="as Parquet's are read"),
        pytest.param([1, 2, 2, 2], "2", id="rows of one time are together"),
    ],
)
def test_times_are_numbers_or_dates(times: list[Any], cut: str) -> None:
    assert sides_by_time(times, {Side.TEST: 0.2})[1] == {Side.TEST: cut}


@pytest.mark.parametrize(
    ("times", "reason", "message"),
    [
        pytest.param(["2026-01-01", "soon"], "NotATime", "holds 'soon', which is no time", id="no time"),
        pytest.param(["nan"], "NotATime", "holds 'nan', which is no time", id="NaN"),
        pytest.param([1, None], "EmptyValue", "is empty", id="empty"),
        pytest.param(["2026-01-01", 7], "NotATime", "holds 7, unlike the rows before it", id="a date, then a number"),
    ],
)
def test_a_row_without_a_time_is_named(times: list[Any], reason: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        sides_by_time(times)
    expected = f"row {len(times)} of rows: column 'at' (field) {message}"
    assert (caught.value.reason, caught.value.message) == (reason, expected)


def test_a_row_without_a_group_is_named() -> None:
    with pytest.raises(DataError, match=r"row 2 of rows: column 'user' \(field\) is empty"):
        grouped(["a", None])


def a_config(folder: Path, **dataset: Any) -> RunConfig:
    return RunConfig.model_validate(a_run(folder, "./rows.jsonl", "./model").with_("dataset", **dataset).config)


def write(folder: Path, count: int = 60) -> None:
    rows = [
        {"text": f"text {number}", "label": str(number % 2), "user": f"u{number % 12}", "at": number}
        for number in range(count)
    ]
    write_json_lines(folder / "rows.jsonl", rows)


def test_groups_are_whole_in_a_cross_validation_too(tmp_path: Path) -> None:
    write(tmp_path)
    held_out = {side: {"fraction": 0.2, "groupBy": "user"} for side in ("validation", "test")}
    config, tested = a_config(tmp_path, **held_out), []
    for index in range(3):
        fold = config.model_copy(update={"fold": Fold(index=index, of=3, folder=str(tmp_path))})
        sides = of_fold(load_data(config), fold).sides
        users = {side: {row.extra["user"] for row in rows} for side, rows in sides.items()}
        assert not users[Side.TRAIN] & users[Side.TEST]
        tested += [row.number for row in sides[Side.TEST]]
    assert sorted(tested) == sorted(row.number for row in load_data(config).sides[Side.TRAIN])


def test_what_was_decided_is_written_down(tmp_path: Path) -> None:
    write(tmp_path)
    halves = {"test": 0.2, "validation": 0.1}
    by = {
        rule: load_data(
            a_config(tmp_path, **{side: {"fraction": share, **rules} for side, share in halves.items()})
        ).record()["splits"]
        for rule, rules in (("Hash", {}), ("Group", {"groupBy": "user"}), ("Time", {"timeColumn": "at"}))
    }
    assert by == {
        "Hash": {"by": "Hash", "fractions": halves, "seed": 7, "stratified": True, "moved": 0},
        "Group": {
            "by": "Group",
            "column": "user",
            "fractions": halves,
            "seed": 7,
            "groups": by["Group"]["groups"],
            "moved": by["Group"]["moved"],
        },
        "Time": {"by": "Time", "column": "at", "fractions": halves, "from": {"test": "48", "validation": "42"}},
    }
    assert sum(by["Group"]["groups"].values()) == 12


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        pytest.param(
            {"test": {"fraction": 0.2, "groupBy": "usr"}, "validation": {"fraction": 0.1, "groupBy": "usr"}},
            (
                "ColumnNotFound",
                "spec.dataset.test.groupBy: ./rows.jsonl has no column 'usr'",
                "did you mean user? columns there are: at, label, text, user",
            ),
            id="no such column",
        ),
        pytest.param(
            {"test": {"fraction": 0.2}, "validation": {"fraction": 0.1, "timeColumn": "at"}},
            (
                "SplitsDiffer",
                "spec.dataset.test: its rows are chosen otherwise than spec.dataset.validation.timeColumn says",
                "set spec.dataset.test.timeColumn: at, or give it sources",
            ),
            id="two rules",
        ),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(
    dataset: dict[str, Any], expected: tuple[str, str, str], tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(RunError) as caught:
        load_data(a_config(tmp_path, **dataset))
    assert isinstance(caught.value, ConfigError)
    assert (caught.value.reason, caught.value.message, caught.value.hint) == expected


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        pytest.param(
            {"fraction": 0.1, "groupBy": "user", "timeColumn": "at"}, "set groupBy or timeColumn, not both", id="both"
        ),
        pytest.param(
            {"sources": [{"uri": "./x.csv"}], "groupBy": "user"},
            "groupBy and timeColumn choose a fraction of the rows; leave them out beside sources",
            id="beside sources",
        ),
    ],
)
def test_rules_that_exclude_each_other_are_refused(held_out: dict[str, Any], message: str, tmp_path: Path) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        a_config(tmp_path, test=held_out)
    assert message in str(problems_of(caught.value, RunConfig)[0])
