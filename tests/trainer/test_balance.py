"""Rare classes count more, or come more often, by numbers that can be checked; and what cannot be is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy
import pytest

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.data.balance import Balance, balance, check_balance
from finetune_trainer.data.rows import Row, Rows
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks import TASKS
from support.runs import a_run

LABELS = ["a", "b", "c"]
COUNTS = {"a": 100, "b": 30, "c": 30}


def rows_of(labels: list[Any], weight: float = 1.0, role: str = "label") -> Rows:
    return Rows.of([Row({"text": "", role: label}, "rows.csv", number, weight) for number, label in enumerate(labels)])


def labels_of(counts: dict[str, int]) -> list[str]:
    return [label for label, count in counts.items() for _ in range(count)]


def config_of(tmp_path: Any, wanted: dict[str, Any], task: str = "text-classification", **dataset: Any) -> RunConfig:
    run = a_run(tmp_path, "./rows.csv", "./model").with_("dataset", balance=wanted, **dataset)
    return RunConfig.model_validate({**run.config, "task": task})


def balanced(tmp_path: Any, rows: Rows, labels: list[str], wanted: dict[str, Any], **more: Any) -> Balance:
    config = config_of(tmp_path, wanted, **more)
    return balance(TASKS[config.task], rows, labels, config)


def seen(rows: Rows, found: Balance, epoch: int = 0) -> Counter[str]:
    """The rows of each label in an epoch."""
    sampler = Sampler(len(rows), len(rows) * 9, 7, found.row_weights, found.groups)
    return Counter(rows[index].values["label"] for index in sampler.indices(epoch * sampler.steps_per_epoch))


def test_off_nothing_is_balanced(tmp_path: Any) -> None:
    assert balanced(tmp_path, rows_of(labels_of(COUNTS)), LABELS, {}) == Balance()


def test_balanced_weights_are_those_of_scikit_learn(tmp_path: Any) -> None:
    """rows / (classes x rows of the class)."""
    from sklearn.utils.class_weight import compute_class_weight  # type: ignore[import-untyped]

    labels = labels_of(COUNTS)
    found = balanced(tmp_path, rows_of(labels), LABELS, {"classWeights": "Balanced"})
    expected = compute_class_weight("balanced", classes=numpy.array(LABELS), y=labels)
    assert found.class_weights == pytest.approx(dict(zip(LABELS, expected, strict=True)))
    assert found.report == {"classWeights": {"a": 0.533333, "b": 1.777778, "c": 1.777778}}
    assert found.row_weights is None


def test_custom_weights_leave_other_labels_at_one(tmp_path: Any) -> None:
    wanted = {"classWeights": "Custom", "weights": [{"label": "b", "weight": 2.5}]}
    found = balanced(tmp_path, rows_of(labels_of(COUNTS)), LABELS, wanted)
    assert found.class_weights == {"a": 1.0, "b": 2.5, "c": 1.0}


def test_several_labels_weigh_presence_against_absence(tmp_path: Any) -> None:
    """A label on 1 of 4 rows counts 3 where it is there; one that all rows have counts 1."""
    rows = rows_of([("a", "b"), ("a",), ("a",), ("a", "c")])
    found = balanced(tmp_path, rows, LABELS, {"classWeights": "Balanced"}, problemType="MultiLabel")
    assert found.class_weights == {"a": 1.0, "b": 3.0, "c": 3.0}


def test_tags_are_weighed_by_words(tmp_path: Any) -> None:
    rows = rows_of([("O", "O", "B-X"), ("O",)], role="tags")
    found = balanced(tmp_path, rows, ["B-X", "O"], {"classWeights": "Balanced"}, task="token-classification")
    assert found.class_weights == pytest.approx({"B-X": 2.0, "O": 2 / 3})


def test_oversampled_each_class_comes_as_often_as_the_largest(tmp_path: Any) -> None:
    """To the row, in every epoch; what is no whole number of times is made up by other rows of the class."""
    rows = rows_of(labels_of(COUNTS))
    found = balanced(tmp_path, rows, LABELS, {"oversample": "Minority"})
    assert found.report == {"oversample": {label: {"rows": COUNTS[label], "seen": 100} for label in LABELS}}
    assert [seen(rows, found, epoch) for epoch in range(3)] == [dict.fromkeys(LABELS, 100)] * 3


def test_oversampling_counts_the_weights_of_sources(tmp_path: Any) -> None:
    rows = Rows.of([*rows_of(["a"] * 10, weight=2.0), *rows_of(["b"] * 5)])
    found = balanced(tmp_path, rows, ["a", "b"], {"oversample": "Minority"})
    assert found.report == {"oversample": {"a": {"rows": 10, "seen": 20}, "b": {"rows": 5, "seen": 20}}}


def test_oversampled_classes_need_no_weights(tmp_path: Any) -> None:
    """Balanced counts rows as an epoch has them: what is made up for once is not made up for again."""
    wanted = {"oversample": "Minority", "classWeights": "Balanced"}
    found = balanced(tmp_path, rows_of(labels_of(COUNTS)), LABELS, wanted)
    assert found.class_weights == pytest.approx(dict.fromkeys(LABELS, 1.0))


def test_a_label_without_rows_asks_for_nothing(tmp_path: Any) -> None:
    """As a fold of a cross-validation may have it."""
    wanted = {"oversample": "Minority", "classWeights": "Balanced"}
    found = balanced(tmp_path, rows_of(["a", "a", "c"]), LABELS, wanted)
    assert found.report["oversample"]["b"] == {"rows": 0, "seen": 0}
    assert found.class_weights == pytest.approx(dict.fromkeys(LABELS, 1.0))


@pytest.mark.parametrize(
    ("wanted", "reason", "message", "hint"),
    [
        pytest.param(
            [{"label": "positve", "weight": 2}],
            "UnknownLabel",
            "spec.dataset.balance.weights[0].label: no training row has the label 'positve'",
            "did you mean positive? labels: negative, positive",
            id="a label that is not there",
        ),
        pytest.param(
            [{"label": "positive", "weight": 2}, {"label": "positive", "weight": 3}],
            "NamedTwice",
            "spec.dataset.balance.weights[1].label: 'positive' stands twice",
            "leave one of them out",
            id="a label twice",
        ),
    ],
)
def test_weights_that_fit_no_label(wanted: Any, reason: str, message: str, hint: str, tmp_path: Any) -> None:
    labels = ["negative", "positive"]
    with pytest.raises(ConfigError) as caught:
        balanced(tmp_path, rows_of(labels), labels, {"classWeights": "Custom", "weights": wanted})
    assert (caught.value.reason, caught.value.message, caught.value.hint) == (reason, message, hint)


@pytest.mark.parametrize(
    ("task", "wanted", "dataset", "field"),
    [
        pytest.param("text-regression", {"classWeights": "Balanced"}, {}, "classWeights", id="numbers"),
        pytest.param("summarization", {"oversample": "Minority"}, {}, "oversample", id="texts"),
        pytest.param("token-classification", {"oversample": "Minority"}, {}, "oversample", id="tags"),
        pytest.param(
            "text-classification",
            {"oversample": "Minority"},
            {"problemType": "MultiLabel"},
            "oversample",
            id="several labels",
        ),
    ],
)
def test_what_has_no_classes_is_refused(task: str, wanted: Any, dataset: Any, field: str, tmp_path: Any) -> None:
    config = config_of(tmp_path, wanted, task, **dataset)
    with pytest.raises(ConfigError, match=f"^spec.dataset.balance.{field}: "):
        check_balance(TASKS[config.task], config)


@pytest.mark.parametrize("task", [task for task in Task if TASKS[task].class_name], ids=str)
def test_tasks_with_classes_take_weights(task: Task, tmp_path: Any) -> None:
    config = config_of(tmp_path, {"classWeights": "Balanced"}, task)
    check_balance(TASKS[task], config)


def test_each_copy_of_a_row_is_counted() -> None:
    """So that it can draw random numbers of its own: the first of an epoch is 0, over all its steps."""
    sampler = Sampler(6, 4, 7, [1, 1, 1, 3, 2.5, 2.5])
    for epoch in range(2):
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        rows = [index for step in steps for index in sampler.indices(step)]
        copies = [copy for step in steps for copy in sampler.copies(step)]
        before = [rows[:place].count(index) for place, index in enumerate(rows)]
        assert (copies, max(copies)) == (before, 2)
