"""Few-shot training takes k rows of each class, the same ones when rows come, and says where there were fewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Rows
from finetune_trainer.data.shots import check_shots, few
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError
from support.corpora.files import write_json_lines
from support.runs import a_run
from support.tasks import rows_of


def a_config(shots: int | None, task: str = "text-classification", folder: Path = Path("/nowhere")) -> RunConfig:
    run = a_run(folder, "./rows.jsonl", "./model").with_("method", shots=shots)
    return RunConfig.model_validate({**run.config, "task": task})


def chosen(texts: Sequence[tuple[str, Any]], shots: int = 2) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    rows = Rows.of(rows_of([{"text": text, "label": label} for text, label in texts]))
    kept, said = few(rows, a_config(shots))
    return [(row.values["text"], row.values["label"]) for row in kept], said


ROWS = [(f"text {number}", "abc"[number % 3]) for number in range(30)]


def test_so_many_rows_of_each_class_are_left_in_their_order() -> None:
    kept, said = chosen(ROWS, 4)
    assert Counter(label for _, label in kept) == {"a": 4, "b": 4, "c": 4}
    assert kept == [row for row in ROWS if row in kept]
    assert said == {"perClass": 4, "rows": 12}


def test_without_shots_all_rows_are_left() -> None:
    rows = Rows.of(rows_of([{"text": "a", "label": "x"}]))
    assert few(rows, a_config(None)) == (rows, {})


def test_a_class_with_fewer_rows_has_all_of_them_and_is_named() -> None:
    kept, said = chosen([*ROWS, ("rare", "z")], 3)
    assert ("rare", "z") in kept
    assert said == {"perClass": 3, "rows": 10, "fewer": {"z": 1}}


def test_an_input_counts_once() -> None:
    kept, said = chosen([("same", "a")] * 9 + [("other", "a"), ("b", "b")], 2)
    assert sorted(kept) == [("b", "b"), ("other", "a"), ("same", "a")]
    assert said == {"perClass": 2, "rows": 3, "fewer": {"b": 1}}


def test_a_row_with_several_labels_counts_for_each() -> None:
    rows = [("both", ("a", "b")), ("only a", ("a",)), ("only b", ("b",)), ("none", ())]
    kept, said = chosen(rows, 1)
    assert ("none", ()) in kept
    assert said["rows"] == len(kept) in (2, 3)
    assert all(any(label in labels for _, labels in kept) for label in "ab")


@settings(deadline=None)
@given(st.permutations(ROWS), st.lists(st.sampled_from(["new 1", "new 2", "new 3"]), unique=True))
def test_rows_that_come_leave_the_others_but_for_those_they_replace(
    order: list[tuple[str, str]], new: list[str]
) -> None:
    before = set(chosen(ROWS)[0])
    assert set(chosen(order)[0]) == before
    after = set(chosen([*order, *((text, "a") for text in new)])[0])
    assert len(before - after) <= len(new)
    assert {row for row in after if row[1] != "a"} == {row for row in before if row[1] != "a"}


def test_another_seed_takes_other_rows() -> None:
    rows = Rows.of(rows_of([{"text": text, "label": label} for text, label in ROWS]))
    config = a_config(2)
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 8})})
    assert few(rows, config)[0] != few(rows, other)[0]


def test_held_out_rows_stay_as_they_are(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "rows.jsonl", [{"text": text, "label": label} for text, label in ROWS * 3])
    whole, some = (load_data(a_config(shots, folder=tmp_path)) for shots in (None, 2))
    assert [row.values for row in some.sides[Side.TEST]] == [row.values for row in whole.sides[Side.TEST]]
    assert len(some.sides[Side.TRAIN]) == 6
    assert some.record()["shots"] == {"perClass": 2, "rows": 6}
    assert "shots" not in whole.record()


@pytest.mark.parametrize("task", ["text-regression", "token-classification", "text-generation", "summarization"])
def test_a_task_without_classes_has_no_shots(task: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shots(a_config(5, task))
    assert (caught.value.reason, caught.value.hint) == (
        "NoClasses",
        "set spec.dataset.limit to train on the first rows only",
    )
    assert caught.value.message == f"spec.method.shots: the rows of {task} have no classes to take 5 rows of each from"
