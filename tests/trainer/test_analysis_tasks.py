"""What each task says of its errors, from rows and predictions that are written down: no model, and no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.analysis import document
from finetune_trainer.analysis.confusion import MOST_CLASSES
from finetune_trainer.data.columns import Answer
from finetune_trainer.data.rows import Row
from finetune_trainer.metrics.retrieval import retrieval
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import Goal, TaskKind
from finetune_trainer.tasks.ctc import Ctc
from finetune_trainer.tasks.fill_mask import FillMask, Guess, Hidden
from finetune_trainer.tasks.image_text_contrastive import Pair
from finetune_trainer.tasks.image_text_to_text import Told
from finetune_trainer.tasks.preference_optimization import Rewards
from finetune_trainer.tasks.question_answering import Found
from finetune_trainer.tasks.writing import Score
from support.runs import a_run

LARGEST = 1_000_000


def bare(kind: type[TaskKind], labels: Sequence[str] = (), goal: str | None = None, **dataset: Any) -> Any:
    """A task without what it reads from a model's folder: nothing that judges predictions needs that."""
    name = next(task for task, known in TASKS.items() if issubclass(kind, known))
    run = a_run(Path("nowhere"), "./rows", "./model").with_("dataset", **dataset)
    task = kind.__new__(kind)
    TaskKind.__init__(
        task, ModelFolder(Path("model"), "bert"), labels, RunConfig.model_validate({**run.config, "task": name})
    )
    if goal is not None:
        task.goal = Goal(goal)
    return task


def rows(*values: dict[str, Any], source: str = "rows.jsonl", **extra: Sequence[Any]) -> list[Row]:
    """Rows with the cells of further columns."""
    return [
        Row(row, source, number + 1, extra={name: cells[number] for name, cells in extra.items()})
        for number, row in enumerate(values)
    ]


def analysed(task: TaskKind, some: Sequence[Row], predictions: Sequence[Any], *columns: str) -> dict[str, Any]:
    found = document.analyse(task, some, predictions, columns)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def errors(task: TaskKind, some: Sequence[Row], predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """The wrong rows without where they stand, the worst first."""
    found = task.judge(some, predictions, None).errors
    for error in found:
        assert (error.pop("source"), error.pop("row") > 0) == ("rows.jsonl", True)
    return found


def a_slice(by: str, name: str, count: int, metric: str, value: float) -> dict[str, Any]:
    return {"by": by, "slice": name, "rows": count, "metric": metric, "value": value}


TEN = range(10)


def test_a_binary_classification() -> None:
    """All its tables, and slices by length, label and a column; the second label is what is looked for."""
    task = bare(TASKS[Task.TEXT_CLASSIFICATION], ["no", "yes"])
    some = rows(
        *({"text": "x" * (1 + number), "label": "yes" if number < 5 else "no"} for number in TEN),
        shop=["A"] * 5 + ["B"] * 5,
    )
    sure = numpy.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.45, 0.3, 0.2, 0.1, 0.05])
    found = analysed(task, some, [numpy.array([1 - score, score]) for score in sure], "shop")
    assert found.keys() == {"confusion", "perClass", "calibration", "thresholds", "slices"}
    assert found["confusion"] == {"labels": ["no", "yes"], "counts": [[5, 0], [1, 4]], "other": False}
    assert found["perClass"] == [
        {"label": "no", "precision": 0.8333, "recall": 1.0, "f1": 0.9091, "support": 5},
        {"label": "yes", "precision": 1.0, "recall": 0.8, "f1": 0.8889, "support": 5},
    ]
    assert max(found["thresholds"], key=lambda line: line["f1"])["threshold"] == 0.4
    assert found["slices"] == [
        a_slice("length", "1 to 5 characters", 5, "accuracy", 0.8),
        a_slice("length", "6 to 10 characters", 5, "accuracy", 1.0),
        a_slice("label", "no", 5, "accuracy", 1.0),
        a_slice("label", "yes", 5, "accuracy", 0.8),
        a_slice("shop", "A", 5, "accuracy", 0.8),
        a_slice("shop", "B", 5, "accuracy", 1.0),
    ]
    assert errors(task, some, [numpy.array([1 - score, score]) for score in sure]) == [
        {"text": "xxxxx", "label": "yes", "prediction": "no", "score": 0.6}
    ]


def test_several_labels_a_row() -> None:
    """Calibration and thresholds over all labels of all rows; a row is in the slice of each of its labels."""
    task = bare(TASKS[Task.IMAGE_CLASSIFICATION], ["a", "b"], problemType="MultiLabel")
    some = rows(*({"image": None, "label": ("a", "b") if number < 5 else ("b",)} for number in TEN))
    found = analysed(task, some, [numpy.array([0.9, 0.8 if number < 8 else 0.2]) for number in TEN])
    assert found.keys() == {"perClass", "calibration", "thresholds", "slices"}
    assert found["perClass"][0] == {"label": "b", "precision": 1.0, "recall": 0.8, "f1": 0.8889, "support": 10}
    assert found["calibration"]["bins"][-1] == {
        "from": 0.8667,
        "to": 0.9333,
        "rows": 10,
        "confidence": 0.9,
        "accuracy": 0.5,
    }
    assert [line["threshold"] for line in found["thresholds"]] == [0.2, 0.8, 0.9]
    assert found["slices"] == [a_slice("label", "b", 10, "accuracy", 0.5), a_slice("label", "a", 5, "accuracy", 1.0)]


def test_a_regression() -> None:
    """Also sliced by the size of what is to be told; the row that is farthest off is the worst."""
    task = bare(TASKS[Task.TEXT_REGRESSION])
    some = rows(*({"text": "same", "label": float(number)} for number in TEN))
    guesses = [number + 1.0 if number < 5 else number - 2.0 for number in TEN]
    found = analysed(task, some, guesses)
    assert found["residuals"]["bias"] == -0.5
    assert found["slices"] == [a_slice("label", "0 to 4", 5, "mse", 1.0), a_slice("label", "5 to 9", 5, "mse", 4.0)]
    worst = errors(task, some, guesses)
    assert (worst[0], len(worst)) == ({"text": "same", "label": 5.0, "prediction": 3.0, "error": -2.0}, 10)


def test_entities() -> None:
    """A slice in which there are none has no F1, where 0 would say that all went wrong."""
    task = bare(TASKS[Task.TOKEN_CLASSIFICATION], ["B-PER", "O"], "f1")
    words: list[dict[str, Any]] = [{"tokens": ("Ann", "waits"), "tags": ("B-PER", "O")}] * 5
    some = rows(*words, *([{"tokens": ("nobody", "waits"), "tags": ("O", "O")}] * 5), kind=["named"] * 5 + ["none"] * 5)
    said = [["B-PER", "O"]] * 4 + [["O", "B-PER"]] + [["O", "O"]] * 5
    found = analysed(task, some, said, "kind")
    assert found["entities"] == {
        "perType": [{"type": "PER", "precision": 0.8, "recall": 0.8, "f1": 0.8, "support": 5}],
        "errors": {"missed": 1, "spurious": 1, "wrongType": 0, "wrongBoundary": 0},
    }
    assert [line["slice"] for line in found["slices"] if line["by"] == "kind"] == ["named"]


def test_tags_that_mark_no_entities() -> None:
    """Which of them are mixed up; O is what a word that the model did not see gets."""
    task = bare(TASKS[Task.TOKEN_CLASSIFICATION], ["DET", "NOUN"], "f1_macro")
    found = analysed(task, rows({"tokens": ("the", "cat"), "tags": ("DET", "NOUN")}), [["NOUN", "O"]])
    assert found["confusion"] == {
        "labels": ["DET", "NOUN", "O"],
        "counts": [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
        "other": False,
    }
    assert found["perClass"][0] == {"label": "DET", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_questions() -> None:
    task = bare(TASKS[Task.QUESTION_ANSWERING])
    context = "Ann wrote it in May."
    known: list[tuple[Answer, ...]] = [(Answer("May", 16),)] * 5 + [()] * 5
    some = rows(*({"question": "When?", "context": context, "answers": answers} for answers in known))
    said = [
        Found("May", 16, 0.9),
        Found("in May", 13, 0.8),
        Found("Ann", 0, 0.9),
        Found("", None, 0.5),
        Found("May", 16, 0.4),
    ]
    said += [Found("", None, 0.9)] * 4 + [Found("Ann", 0, 0.6)]
    found = analysed(task, some, said)
    assert found == {
        "spans": {"exact": 6, "overlapping": 1, "disjoint": 1, "missed": 1, "spurious": 1},
        "slices": [
            a_slice("label", "answerable", 5, "f1", round((1 + 2 / 3 + 1) / 5, 6)),
            a_slice("label", "unanswerable", 5, "f1", 0.8),
        ],
    }
    worst = [(error["prediction"], error["f1"], error["score"]) for error in errors(task, some, said)]
    assert worst == [("Ann", 0.0, 0.9), ("Ann", 0.0, 0.6), ("", 0.0, 0.5), ("in May", 0.6667, 0.8)]


def test_speech() -> None:
    """The words that are heard wrongly; the rows with the most of them first."""
    task = bare(Ctc)
    some = rows({"text": "the cat sat"}, {"text": "the cat"}, {"text": "sat"})
    said = ["the bat sat", "the bat", "sat"]
    assert analysed(task, some, said) == {"substitutions": [{"reference": "cat", "said": "bat", "count": 2}]}
    worst = [(error["text"], error["prediction"], error["wer"]) for error in errors(task, some, said)]
    assert worst == [("the cat", "the bat", 0.5), ("the cat sat", "the bat sat", 0.3333)]


@pytest.mark.parametrize(("task", "metric"), [(Task.TRANSLATION, "chrf"), (Task.SUMMARIZATION, "rougeL")])
def test_written_texts_stand_beside_their_references(task: Task, metric: str) -> None:
    kind = bare(TASKS[task])
    some = rows(*({"source": "quelle", "target": "a red house"} for _ in TEN), topic=["x"] * 5 + ["y"] * 5)
    said = ["a red house"] * 4 + ["a blue house"] + ["nothing"] * 5
    best = 1.0 if metric == "rougeL" else 100.0
    found = {line["slice"]: line for line in analysed(kind, some, said, "topic")["slices"]}
    assert found["x"]["metric"] == metric
    assert found["y"]["value"] < 0.3 * best < found["x"]["value"] < best
    worst = errors(kind, some, said)
    assert [error["prediction"] for error in worst] == ["nothing"] * 5 + ["a blue house"]
    assert worst[0] == {"input": "quelle", "target": "a red house", "prediction": "nothing", metric: worst[0][metric]}
    assert [error[metric] for error in worst] == sorted(error[metric] for error in worst)


def test_preferences() -> None:
    """What the model prefers is its prediction: of a wrong row the rejected answer."""
    task = bare(TASKS[Task.PREFERENCE_OPTIMIZATION])
    some = rows(*({"prompt": "p" * number, "chosen": "good", "rejected": "bad"} for number in range(1, 11)))
    said = [Rewards(-1.0, -2.0, 0.5 if number < 5 else -0.5 * number, 0.0) for number in TEN]
    assert analysed(task, some, said)["slices"] == [
        a_slice("length", "1 to 5 characters", 5, "reward_accuracy", 1.0),
        a_slice("length", "6 to 10 characters", 5, "reward_accuracy", 0.0),
    ]
    worst = errors(task, some, said)
    assert [error["margin"] for error in worst] == [-4.5, -4.0, -3.5, -3.0, -2.5]
    assert (worst[0]["chosen"], worst[0]["prediction"]) == ("good", "bad")


def test_images_and_texts_are_looked_for_among_all_rows() -> None:
    """A slice is not a smaller set to search in: its recall is what its rows add to that of all."""
    task = bare(TASKS[Task.IMAGE_TEXT_CONTRASTIVE])
    draws = numpy.random.default_rng(1)
    images = draws.standard_normal((20, 3))
    texts = images + draws.standard_normal((20, 3))
    some = rows(*({"image": None, "text": "x" * (1 + number)} for number in range(20)), kind=["a", "b"] * 10)
    found = analysed(task, some, [Pair(*both, 1.0) for both in zip(images, texts, strict=True)], "kind")["slices"]
    whole = retrieval(images, texts)
    expected = (whole["image_to_text_recall@1"] + whole["text_to_image_recall@1"]) / 2
    for by in ("length", "kind"):
        values = [line["value"] for line in found if line["by"] == by]
        assert numpy.mean(values) == pytest.approx(expected)
        assert 0 < expected < 1


class Words:
    """A tokenizer's part that names tokens."""

    def convert_ids_to_tokens(self, numbers: Sequence[int]) -> list[str]:
        return [f"w{number}" for number in numbers]


def test_hidden_tokens() -> None:
    task = bare(FillMask)
    task.tokenizer = Words()
    some = rows({"text": "one"}, {"text": "two"})
    said = [[Guess(Hidden(1, 7, 0), 8, 2.0), Guess(Hidden(2, 5, 0), 5, 0.1)], [Guess(Hidden(1, 7, 0), 8, 3.0)]]
    assert analysed(task, some, said) == {"substitutions": [{"reference": "w7", "said": "w8", "count": 2}]}
    assert [(error["prediction"], error["surprise"]) for error in errors(task, some, said)] == [
        (["w8"], 3.0),
        (["w8", "w5"], 2.0),
    ]
    assert task.compared in task.judge(some, said, None).metrics


def test_answers_about_images() -> None:
    task = bare(TASKS[Task.IMAGE_TEXT_TO_TEXT])
    some = rows(*({"image": None, "prompt": "Which?", "completion": "red"} for _ in range(3)))
    said = [Told("red ", Score(0.1, 1, 1)), Told("blue", Score(1.0, 1, 0)), Told("blue", Score(2.0, 1, 0))]
    assert analysed(task, some, said) == {"substitutions": [{"reference": "red", "said": "blue", "count": 2}]}


def test_it_stays_small_however_many_classes_and_columns_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of classes with long names that are not ASCII, and the most columns that the manifest takes."""
    labels = [f"{number} {'木' * 300}" for number in range(MOST_CLASSES + 1)]
    task = bare(TASKS[Task.TEXT_CLASSIFICATION], labels)
    columns = {
        f"column {number} {'é' * 300}": [f"{row % 12} {'木' * 300}" for row in range(1200)] for number in range(16)
    }
    some = rows(*({"text": "x" * (row + 1), "label": labels[row % len(labels)]} for row in range(1200)), **columns)
    said = list(numpy.eye(len(labels), dtype="float32")[numpy.arange(1200) % 999])
    monkeypatch.setattr(task, "measure_part", lambda *_: {"accuracy": 0.123456789})
    whole = {"analysis": analysed(task, some, said, *columns), **task.judge(some, said, None).details}
    assert len(json.dumps(whole, indent=2, ensure_ascii=False).encode()) < LARGEST


def test_a_column_of_the_name_of_another_slice_is_told_apart() -> None:
    """And a column that is named twice is one."""
    task = bare(TASKS[Task.TEXT_CLASSIFICATION], ["0", "1"])
    some = rows(*({"text": "same", "label": "0"} for _ in TEN), label=["a"] * 5 + ["b"] * 5)
    found = analysed(task, some, [numpy.array([1.0, 0.0])] * 10, "label", "label")["slices"]
    assert found == [a_slice("column label", name, 5, "accuracy", 1.0) for name in ("a", "b")]


def test_slices_are_measured_on_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spaced ones."""
    monkeypatch.setattr(document, "MOST_ROWS", 10)
    task = bare(TASKS[Task.TEXT_CLASSIFICATION], ["0", "1"])
    some = rows(*({"text": "same", "label": "0"} for _ in range(100)), half=[1] * 50 + [2] * 50)
    found = analysed(task, some, [numpy.array([1.0, 0.0])] * 100, "half")["slices"]
    assert found == [a_slice("half", name, 5, "accuracy", 1.0) for name in ("1", "2")]
