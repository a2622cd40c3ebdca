"""Cells of each kind become one value whatever they came from, and roles find their columns, or a message says why."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data.columns import (
    Answer,
    Kind,
    Roles,
    Where,
    answers,
    as_text,
    image,
    label,
    messages,
    number,
    text,
    words,
)
from finetune_trainer.data.media import plain
from finetune_trainer.errors import ConfigError, DataError

WHERE = Where("row 3 of rows.csv", "col", "role")
SHA256_OF_BYTES = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, None, id="null"),
        pytest.param(float("nan"), None, id="NaN"),
        pytest.param("  ", None, id="blanks"),
        pytest.param(3.0, "3", id="integers beside a gap"),
        pytest.param(0.5, "0.5", id="float"),
        pytest.param(True, "True", id="boolean"),
        pytest.param("NA", "NA", id="a word that some readers take for nothing"),
    ],
)
def test_as_text(value: Any, expected: str | None) -> None:
    assert as_text(value) == expected


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        pytest.param(text, 7, "7", id="text: number"),
        pytest.param(text, '["a"]', '["a"]', id="text: JSON stays text"),
        pytest.param(label, 2.0, "2", id="label: number"),
        pytest.param(label, "[unk]", "[unk]", id="label: text that only looks like a list"),
        pytest.param(label, ["b", "a", "b"], ("b", "a"), id="label: several, each once"),
        pytest.param(label, '["b", 1]', ("b", "1"), id="label: JSON list"),
        pytest.param(label, [], (), id="label: none of several"),
        pytest.param(number, "-2.5e1", -25.0, id="number: text"),
        pytest.param(number, 3, 3.0, id="number: integer"),
        pytest.param(number, Decimal("0.5"), 0.5, id="number: decimal of Parquet"),
        pytest.param(words, ["New", "York", 7], ("New", "York", "7"), id="words: list"),
        pytest.param(words, '["a b", "c"]', ("a b", "c"), id="words: JSON list"),
        pytest.param(words, " a  b\tc ", ("a", "b", "c"), id="words: split at blanks"),
        pytest.param(words, "[ not JSON", ("[", "not", "JSON"), id="words: text that only looks like a list"),
        pytest.param(
            answers, {"text": ["a", "b"], "answer_start": [0, 5]}, (Answer("a", 0), Answer("b", 5)), id="SQuAD"
        ),
        pytest.param(answers, [{"text": "a", "answer_start": 3}], (Answer("a", 3),), id="answers: objects"),
        pytest.param(answers, '{"text": ["a"], "answer_start": [1]}', (Answer("a", 1),), id="answers: JSON"),
        pytest.param(answers, {"text": [], "answer_start": []}, (), id="answers: cannot be answered"),
        pytest.param(messages, TURNS, tuple(TURNS), id="messages: list"),
        pytest.param(messages, json.dumps(TURNS), tuple(TURNS), id="messages: JSON"),
        pytest.param(messages, [TURNS[0] | {"name": None}], (TURNS[0],), id="messages: a key without value"),
    ],
)
def test_a_cell_becomes_a_value(kind: Kind, cell: Any, value: Any) -> None:
    assert kind(cell, WHERE) == value


@pytest.mark.parametrize(
    ("kind", "cell", "reason", "what"),
    [
        pytest.param(text, " ", "EmptyValue", " (role) is empty", id="text: blank"),
        pytest.param(text, b"a", "NotText", " holds a bytes, not one value", id="text: bytes"),
        pytest.param(text, {}, "NotText", " holds a dict, not one value", id="text: object"),
        pytest.param(label, [None], "EmptyValue", " (role) is empty", id="label: null among several"),
        pytest.param(number, None, "EmptyValue", " (role) is empty", id="number: null"),
        pytest.param(
            number, float("nan"), "NotANumber", " (role) holds nan, which is not a finite number", id="number: NaN"
        ),
        pytest.param(
            number, "inf", "NotANumber", " (role) holds 'inf', which is not a finite number", id="number: infinite"
        ),
        pytest.param(
            number, "3,5", "NotANumber", " (role) holds '3,5', which is not a finite number", id="number: comma"
        ),
        pytest.param(
            number,
            10**400,
            "NotANumber",
            f" (role) holds {str(10**400)[:79]}…, which is not a finite number",
            id="huge",
        ),
        pytest.param(words, [], "EmptyValue", " (role) is empty", id="words: none"),
        pytest.param(words, ["a", " "], "EmptyValue", " (role): word 2 is empty", id="words: blank one"),
        pytest.param(answers, None, "EmptyValue", " (role) is empty", id="answers: null"),
        pytest.param(
            answers,
            {"text": ["a"], "answer_start": []},
            "NotAnswers",
            " (role) does not hold answers with their starts",
            id="answers: lists of two lengths",
        ),
        pytest.param(
            answers,
            [{"text": "a", "answer_start": -1}],
            "NotAnswers",
            " (role) does not hold answers with their starts",
            id="answers: before the context",
        ),
        pytest.param(
            answers, "Paris", "NotAnswers", " (role) does not hold answers with their starts", id="answers: plain text"
        ),
        pytest.param(messages, [], "EmptyValue", " (role) is empty", id="messages: none"),
        pytest.param(messages, "hi", "NotMessages", " (role) holds no list of messages", id="messages: plain text"),
        pytest.param(
            messages,
            [{"from": "human", "value": "hi"}],
            "NotMessages",
            " (role) holds message 1 with the keys from, value",
            id="messages: other keys",
        ),
        pytest.param(
            messages,
            [TURNS[0], {"role": "assistant", "content": 3}],
            "NotMessages",
            " (role) holds message 2 whose role or content is not text",
            id="messages: number",
        ),
        pytest.param(image, None, "EmptyValue", " (role) is empty", id="image: null"),
        pytest.param(image, 7, "NotMedia", " (role) holds 7", id="image: number"),
        pytest.param(
            image, "no.png", "NoSuchFile", " (role) names no.png, which does not exist", id="image: missing file"
        ),
    ],
)
def test_a_cell_that_is_wrong(kind: Kind, cell: Any, reason: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        kind(cell, WHERE)
    assert (caught.value.reason, caught.value.message) == (reason, f"row 3 of rows.csv: column 'col'{what}")


def media_cells(folder: Path) -> dict[str, Any]:
    file = folder / "a.png"
    file.write_bytes(b"bytes")
    return {
        "a path relative to the data file": "a.png",
        "an absolute path": str(file),
        "a file URI": file.as_uri(),
        "a path of datasets": {"path": str(file), "bytes": None},
        "bytes with a name, as in Parquet": {"path": "a.png", "bytes": b"bytes"},
    }


def test_an_image_is_the_same_however_its_cell_says_it(tmp_path: Path) -> None:
    where = Where("row 1", "image", "image", tmp_path)
    cells = media_cells(tmp_path)
    found = {name: image(cell, where) for name, cell in cells.items()}
    expected = {"path": "a.png", "sha256": SHA256_OF_BYTES}
    assert {name: plain(media) for name, media in found.items()} == dict.fromkeys(cells, expected)
    assert [media.read() for media in found.values()] == [b"bytes"] * len(cells)
    assert image(b"bytes", where).name == "image"


def test_plain_values_can_be_written_as_json(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(base64.b64decode("Ynl0ZXM="))
    value = {
        "image": image("a.png", Where("row 1", "c", "image", tmp_path)),
        "answers": (Answer("a", 1),),
        "messages": tuple(TURNS),
        "number": 0.5,
    }
    assert json.loads(json.dumps(plain(value))) == {
        "image": {"path": "a.png", "sha256": SHA256_OF_BYTES},
        "answers": [{"text": "a", "answer_start": 1}],
        "messages": TURNS,
        "number": 0.5,
    }


ONE = Roles({"text": text, "textPair": text, "label": label}, (("text", "label"),), ("label",))
MANY = Roles(
    {"text": text, "prompt": text, "completion": text, "messages": messages, "system": text},
    (("messages",), ("prompt", "completion"), ("text",)),
    ("completion",),
)


@pytest.mark.parametrize(
    ("roles", "names", "known", "predicting", "expected"),
    [
        pytest.param(ONE, {}, "text label textPair", False, "text=text label=label", id="optional only if named"),
        pytest.param(
            ONE, {"textPair": "b", "text": "a"}, "a b label", False, "text=a textPair=b label=label", id="named"
        ),
        pytest.param(ONE, {}, "text", True, "text=text", id="predicting without labels"),
        pytest.param(ONE, {}, "text label", True, "text=text label=label", id="predicting with labels"),
        pytest.param(ONE, {"label": "y"}, "text", True, "text=text", id="predicting without the named label"),
        pytest.param(MANY, {}, "text prompt completion", False, "prompt=prompt completion=completion", id="preferred"),
        pytest.param(MANY, {}, "text prompt", False, "text=text", id="the one whose columns are there"),
        pytest.param(MANY, {"text": "a"}, "a messages", False, "text=a", id="the one that is named"),
        pytest.param(MANY, {"text": "a", "system": "s"}, "a s", False, "text=a system=s", id="one more role"),
        pytest.param(MANY, {}, "prompt", True, "prompt=prompt", id="predicting from prompts"),
    ],
)
def test_roles_find_their_columns(
    roles: Roles, names: dict[str, str], known: str, predicting: bool, expected: str
) -> None:
    resolved = roles.resolve(names, known.split(), "rows.csv", predicting)
    assert " ".join(f"{role}={column}" for role, column in resolved.items()) == expected


@pytest.mark.parametrize(
    ("roles", "names", "known", "reason", "message", "hint"),
    [
        pytest.param(
            ONE,
            {"lable": "x"},
            "text label",
            "UnknownRole",
            "spec.dataset.columns.lable: this task has no such role",
            "did you mean label? roles of this task: label, text, textPair",
            id="role that the task does not have",
        ),
        pytest.param(
            ONE,
            {"text": "sentence"},
            "text label",
            "ColumnNotFound",
            "spec.dataset.columns.text: rows.csv has no column 'sentence'",
            "columns there are: label, text",
            id="column that is not there",
        ),
        pytest.param(
            ONE,
            {"textPair": "pair"},
            "text label",
            "ColumnNotFound",
            "spec.dataset.columns.textPair: rows.csv has no column 'pair'",
            "columns there are: label, text",
            id="column of an optional role",
        ),
        pytest.param(
            MANY,
            {},
            "a prompt",
            "ColumnNotFound",
            "spec.dataset.columns: rows.csv has no columns that this task can use",
            "it takes messages, or prompt and completion, or text; columns there are: a, prompt",
            id="none of the alternatives",
        ),
        pytest.param(
            MANY,
            {"prompt": "question"},
            "question answer",
            "ColumnNotFound",
            "spec.dataset.columns.completion: rows.csv has no column 'completion'",
            "columns there are: answer, question",
            id="half of the alternative that is named",
        ),
        pytest.param(
            MANY,
            {"prompt": "prompt", "completion": "anwser"},
            "prompt answer text",
            "ColumnNotFound",
            "spec.dataset.columns.completion: rows.csv has no column 'anwser'",
            "did you mean answer? columns there are: answer, prompt, text",
            id="a named column is not there, though another alternative is",
        ),
    ],
)
def test_roles_without_their_columns(
    roles: Roles, names: dict[str, str], known: str, reason: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        roles.resolve(names, known.split(), "rows.csv")
    assert (caught.value.reason, caught.value.message, caught.value.hint) == (reason, message, hint)
