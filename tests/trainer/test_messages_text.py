"""Rows, texts and models that the tasks on text cannot use: each message whole, with its row and what would work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError, DataError, RunError
from finetune_trainer.model_folder import Needs, read_folder
from finetune_trainer.preflight import find_model
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import TaskKind
from support import zoo
from support.corpora.files import write_json_lines
from support.runs import a_run

Records = Sequence[Mapping[str, Any]]
LABELLED = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
RATED = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
TAGGED = [{"tokens": ["anna", "left"], "tags": ["B-PER", "O"]}]
HELD_OUT = {"sources": [{"uri": "./held-out.jsonl"}]}
LEAKING = {"acrossSplits": False}
"""The same rows may be held out and learned from: what is tested here is something else."""


def answered(text: str, start: int) -> dict[str, Any]:
    answers = {"text": [text], "answer_start": [start]}
    return {"question": "who?", "context": "anna left.", "answers": answers}


ANSWERED = [answered("anna", 0)]


def config_of(folder: Path, task: str, model: str = "./model", **training: Any) -> RunConfig:
    run = a_run(folder, "./rows.jsonl", model, **training)
    run = run.with_("dataset", validation=HELD_OUT, test=HELD_OUT, dedup=LEAKING)
    return RunConfig.model_validate({**run.config, "task": task})


def said(error: RunError) -> tuple[type[RunError], str, str, str | None]:
    return type(error), error.reason, error.message, error.hint


@pytest.mark.parametrize(
    ("task", "training", "held_out", "expected"),
    [
        pytest.param(
            "text-classification",
            [LABELLED[0], LABELLED[0]],
            LABELLED,
            (
                DataError,
                "OneLabel",
                "all 2 training rows have the label 'x'",
                "give rows of at least two labels; see spec.dataset.columns.label",
            ),
            id="one class only",
        ),
        pytest.param(
            "text-classification",
            LABELLED,
            [{"text": "c", "label": "z"}],
            (
                DataError,
                "UnknownLabel",
                "row 1 of ./held-out.jsonl: no training row has the label 'z'",
                "labels: x, y",
            ),
            id="label that training never saw",
        ),
        pytest.param(
            "text-classification",
            [*LABELLED, {"text": "c", "label": ["x", "y"]}],
            LABELLED,
            (
                DataError,
                "SeveralLabels",
                "row 3 of ./rows.jsonl has 2 labels",
                "set spec.dataset.problemType: MultiLabel, or give it one label",
            ),
            id="several labels where each row has one",
        ),
        pytest.param(
            "text-classification",
            LABELLED,
            [],
            (DataError, "NoRows", "./held-out.jsonl has no rows", "name a file with rows"),
            id="empty split",
        ),
        pytest.param(
            "text-regression",
            [*RATED, {"text": "c", "label": float("nan")}],
            RATED,
            (
                DataError,
                "NotANumber",
                "row 3 of ./rows.jsonl: column 'label' (label) holds nan, which is not a finite number",
                "write a number such as 3 or -0.25, or remove the row",
            ),
            id="NaN target",
        ),
        pytest.param(
            "text-regression",
            [RATED[0], RATED[0]],
            RATED,
            (
                DataError,
                "OneValue",
                "all 2 training rows have the number 1",
                "give rows with other numbers; see spec.dataset.columns.label",
            ),
            id="one number only",
        ),
        pytest.param(
            "token-classification",
            [*TAGGED, {"tokens": ["he", "left", "too"], "tags": ["O", "O"]}],
            TAGGED,
            (
                DataError,
                "UnequalLengths",
                "row 2 of ./rows.jsonl has 3 tokens and 2 tags",
                "give each token one tag; see spec.dataset.columns.tags",
            ),
            id="a word without a tag",
        ),
        pytest.param(
            "token-classification",
            [{"tokens": ["he", "left"], "tags": ["O", "O"]}],
            TAGGED,
            (
                DataError,
                "OneTag",
                "all words of 1 training rows have the tag 'O'",
                "give rows with at least two tags; see spec.dataset.columns.tags",
            ),
            id="one tag only",
        ),
        pytest.param(
            "token-classification",
            TAGGED,
            [{"tokens": ["oslo"], "tags": ["B-PLACE"]}],
            (
                DataError,
                "UnknownTag",
                "row 1 of ./held-out.jsonl: no training row has the tag 'B-PLACE'",
                "did you mean B-PER? tags: B-PER, O",
            ),
            id="tag that training never saw",
        ),
        pytest.param(
            "question-answering",
            [*ANSWERED, answered("left", 8)],
            ANSWERED,
            (
                DataError,
                "AnswerOutside",
                "row 2 of ./rows.jsonl: the answer 'left' at character 8 goes beyond its context, which has 10"
                " characters",
                "count the characters of answer_start from 0, in the context as it is in the file",
            ),
            id="span outside its context",
        ),
        pytest.param(
            "question-answering",
            ANSWERED,
            [answered("left", 4)],
            (
                DataError,
                "AnswerElsewhere",
                "row 1 of ./held-out.jsonl: the answer is 'left', but from character 4 on is ' lef'",
                "count the characters of answer_start from 0, in the context as it is in the file",
            ),
            id="span with another text",
        ),
        pytest.param(
            "question-answering",
            [*ANSWERED, answered(" ", 4)],
            ANSWERED,
            (
                DataError,
                "EmptyValue",
                "row 2 of ./rows.jsonl has an answer without text",
                "write empty lists where the context has no answer",
            ),
            id="answer without text",
        ),
        pytest.param(
            "question-answering",
            [{**ANSWERED[0], "answers": []}],
            ANSWERED,
            (
                DataError,
                "NoAnswers",
                "none of 1 training rows has an answer",
                'write {"text": ["…"], "answer_start": [0]}; see spec.dataset.columns.answers',
            ),
            id="no question with an answer",
        ),
    ],
)
def test_rows_that_cannot_be_learned_from(
    task: str, training: Records, held_out: Records, expected: tuple[Any, ...], tmp_path: Path
) -> None:
    """Found in the preflight, without torch."""
    write_json_lines(tmp_path / "rows.jsonl", training)
    write_json_lines(tmp_path / "held-out.jsonl", held_out)
    with pytest.raises(RunError) as caught:
        load_data(config_of(tmp_path, task))
    assert said(caught.value) == expected


@pytest.mark.parametrize(
    "task", ["text-classification", "text-regression", "token-classification", "question-answering", "fill-mask"]
)
def test_an_architecture_that_cannot_do_the_task(task: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(ConfigError) as caught:
        find_model(config_of(tmp_path, task), TASKS[Task(task)])
    message = "spec.model.uri: ./model is a resnet model, which cannot do this task"
    assert said(caught.value)[:3] == (ConfigError, "UnsupportedModel", message)
    assert "model types that can: albert, " in str(caught.value.hint)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("bert", tmp_path_factory.mktemp("bert"), ["anna left a lamp in oslo on friday night"] * 3)


def task_of(name: str, folder: Path, labels: Sequence[str] = (), **training: Any) -> TaskKind:
    kind = TASKS[Task(name)]
    source = read_folder(folder, "./model", Needs(kind.auto_classes, kind.parts))
    return kind.load(source, labels, config_of(folder, name, **training))


def rows(*values: Mapping[str, Any]) -> list[Row]:
    return [Row(value, "./rows.jsonl", number) for number, value in enumerate(values, start=1)]


LONG = " ".join(["lamp"] * 90)
TOO_LONG = (
    DataError,
    "TooLong",
    "row 2 of ./rows.jsonl: the text has more than the 64 tokens that the model or maxLength allows",
    "shorten it, or cut such texts with spec.training.truncation: true",
)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("task", "labels", "values", "expected"),
    [
        pytest.param("text-classification", ["x", "y"], [{"text": "a"}, {"text": LONG}], TOO_LONG, id="text"),
        pytest.param("text-regression", [], [{"text": "a"}, {"text": LONG}], TOO_LONG, id="text with a number"),
        pytest.param(
            "text-classification",
            ["x", "y"],
            [{"text": "a", "textPair": "b"}, {"text": "a", "textPair": LONG}],
            TOO_LONG,
            id="pair of texts",
        ),
        pytest.param(
            "token-classification", ["O", "x"], [{"tokens": ("a",)}, {"tokens": ("lamp",) * 90}], TOO_LONG, id="words"
        ),
        pytest.param(
            "question-answering",
            [],
            [{"question": "who", "context": LONG}, {"question": LONG, "context": "a"}],
            TOO_LONG,
            id="question; a context is read in parts",
        ),
        pytest.param("fill-mask", [], [{"text": "a"}, {"text": LONG}], TOO_LONG, id="text with hidden tokens"),
        pytest.param(
            "token-classification",
            ["O", "x"],
            [{"tokens": ("\u200b",), "tags": ("O",)}],
            (
                DataError,
                "NothingToTag",
                "row 1 of ./rows.jsonl: the model's tokenizer sees none of its words",
                "remove the row",
            ),
            id="words that the tokenizer drops",
        ),
    ],
)
def test_texts_that_are_refused(
    task: str, labels: Sequence[str], values: Records, expected: tuple[Any, ...], bert: Path
) -> None:
    """With spec.training.truncation: false."""
    with pytest.raises(DataError) as caught:
        task_of(task, bert, labels, truncation=False).encode(rows(*values))
    assert said(caught.value) == expected


@pytest.mark.torch
def test_a_text_without_anything_to_hide(bert: Path) -> None:
    task = task_of("fill-mask", bert)
    examples, _ = task.encode(rows({"text": "a lamp"}, {"text": "灯"}))
    with pytest.raises(DataError) as caught:
        task.prepare(None, {Side.TRAIN: examples}, None)  # type: ignore[arg-type]
    assert said(caught.value) == (
        DataError,
        "NothingToMask",
        "row 2 of ./rows.jsonl: the model knows none of the text's words",
        "remove the row, or use a model with another tokenizer",
    )


@pytest.mark.torch
def test_a_text_to_fill_without_a_mask(bert: Path) -> None:
    task = task_of("fill-mask", bert)
    model, _ = task.load_model()
    examples, _ = task.encode(rows({"text": "a [MASK]"}, {"text": "a lamp"}))
    with pytest.raises(DataError) as caught:
        task.answer(model, examples)
    assert said(caught.value) == (
        DataError,
        "NoMask",
        "row 2 of ./rows.jsonl: there is no [MASK] among the first 64 tokens of the text",
        "write [MASK] where something is to be filled in",
    )


def without_special_tokens(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {name: value for name, value in settings.items() if not name.endswith("_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))


def without_mask(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": None}))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("task", "spoil", "training", "expected"),
    [
        pytest.param(
            "text-classification",
            without_special_tokens,
            {},
            (
                "NoPadToken",
                "spec.model.uri: its tokenizer has neither a pad token nor an end-of-text token",
                "set pad_token in its tokenizer_config.json",
            ),
            id="no token to pad with",
        ),
        pytest.param(
            "fill-mask",
            without_mask,
            {},
            (
                "NoMaskToken",
                "spec.model.uri: its tokenizer has no mask token",
                "use a model that learned to fill masks, such as BERT",
            ),
            id="no token to mask with",
        ),
        pytest.param(
            "question-answering",
            lambda folder: None,  # noqa: ARG005
            {"maxLength": 16},
            (
                "TooShort",
                "spec.training.maxLength: 16 tokens are too few for a question and its context",
                "use 32 or more",
            ),
            id="no room for a context",
        ),
    ],
)
def test_models_that_are_refused(
    task: str, spoil: Any, training: Mapping[str, Any], expected: tuple[str, str, str], tmp_path: Path
) -> None:
    folder = zoo.save("bert", tmp_path / "model", ["anna left a lamp"] * 3)
    spoil(folder)
    with pytest.raises(ConfigError) as caught:
        task_of(task, folder, **training)
    assert said(caught.value) == (ConfigError, *expected)
