"""Rows and models that the tasks that write cannot use: each message whole, with its row and what would work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.data.columns import EmptyCell, Where, image
from finetune_trainer.data.prepare import load_data
from finetune_trainer.errors import ConfigError, DataError, RunError
from finetune_trainer.preflight import find_model
from finetune_trainer.tasks import TASKS
from support import zoo
from support.corpora import text
from support.corpora.files import write_json_lines
from support.runs import a_run
from support.tasks import open_task, rows_of

Records = Sequence[Mapping[str, Any]]
Spoil = Callable[[Path], None]
HELD_OUT = {"sources": [{"uri": "./held-out.jsonl"}]}
LEAKING = {"acrossSplits": False}
"""The same rows may be held out and learned from: what is tested here is something else."""
ASKED = {"role": "user", "content": "order one red lamp"}
SAID = {"role": "assistant", "content": "lamp in red times one"}
PREFERRED = {"prompt": "a", "chosen": "b", "rejected": "c"}
TEXTS = [row["text"] for row in text.plain(200)] + ["you take orders"]
LAST_ONLY = (
    "{% for message in messages %}{{ message.role }}: "
    "{{ '<think></think>' if loop.last and message.role == 'assistant' }}{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
USERS_ONLY = "{% for message in messages %}{{ raise_exception('no ' + message.role + ' is known') }}{% endfor %}"


def told(error: RunError) -> tuple[type[RunError], str, str, str | None]:
    return type(error), error.reason, error.message, error.hint


@pytest.mark.parametrize(
    ("task", "rows", "expected"),
    [
        pytest.param(
            "text-generation",
            [{"messages": [ASKED, SAID]}, {"messages": [ASKED]}],
            (
                DataError,
                "NothingToLearn",
                "row 2 of ./rows.jsonl: no message is the assistant's, so there is nothing to learn",
                'add one with the role "assistant", or remove the row',
            ),
            id="messages without the assistant",
        ),
        pytest.param(
            "text-generation",
            [{"question": "a", "answer": "b"}],
            (
                ConfigError,
                "ColumnNotFound",
                "spec.dataset.columns: ./rows.jsonl has no columns that this task can use",
                "it takes text, or prompt and completion, or messages; columns there are: answer, question",
            ),
            id="no column for any of the three kinds of rows",
        ),
        pytest.param(
            "text-generation",
            [{"prompt": "a", "completion": " "}],
            (
                EmptyCell,
                "EmptyValue",
                "row 1 of ./rows.jsonl: column 'completion' (completion) is empty",
                "fill the cell or remove the row",
            ),
            id="an empty completion",
        ),
        pytest.param(
            "text-generation",
            [{"messages": [{"role": "user", "text": "a"}]}],
            (
                DataError,
                "NotMessages",
                "row 1 of ./rows.jsonl: column 'messages' (messages) holds message 1 with the keys role, text",
                'write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]',
            ),
            id="messages of another layout",
        ),
        pytest.param(
            "preference-optimization",
            [PREFERRED, {**PREFERRED, "rejected": "b"}],
            (
                DataError,
                "NoPreference",
                "row 2 of ./rows.jsonl: chosen and rejected are the same text",
                "change one of them, or remove the row",
            ),
            id="two answers that are one",
        ),
        pytest.param(
            "translation",
            [{"source": "a"}],
            (
                ConfigError,
                "ColumnNotFound",
                "spec.dataset.columns.target: ./rows.jsonl has no column 'target'",
                "columns there are: source",
            ),
            id="no targets",
        ),
        pytest.param(
            "image-text-to-text",
            [{"image": "none.png", "prompt": "a", "completion": "b"}],
            (
                DataError,
                "NoSuchFile",
                "row 1 of ./rows.jsonl: column 'image' (image) names none.png, which does not exist",
                "write paths relative to the data file's folder, or absolute ones",
            ),
            id="no such image",
        ),
    ],
)
def test_rows_that_cannot_be_learned_from(tmp_path: Path, task: str, rows: Records, expected: object) -> None:
    """Known before torch is imported."""
    write_json_lines(tmp_path / "rows.jsonl", rows)
    write_json_lines(tmp_path / "held-out.jsonl", rows[:1])
    run = a_run(tmp_path, "./rows.jsonl", "./model").with_("dataset", validation=HELD_OUT, test=HELD_OUT, dedup=LEAKING)
    with pytest.raises(RunError) as raised:
        load_data(RunConfig.model_validate({**run.config, "task": task}))
    assert told(raised.value) == expected


@pytest.mark.parametrize(
    ("task", "kind", "can"),
    [
        pytest.param("text-generation", "t5", "gpt2", id="text-generation with a T5"),
        pytest.param("translation", "llama", "bart", id="translation with a Llama"),
        pytest.param("preference-optimization", "vit", "qwen3", id="preference-optimization with a ViT"),
        pytest.param("image-text-to-text", "clip", "llava", id="image-text-to-text with a CLIP"),
    ],
)
def test_architectures_that_cannot_do_the_task(tmp_path: Path, task: str, kind: str, can: str) -> None:
    """Told from config.json alone, with those that can; an architecture that can gets one step further."""
    run = {**a_run(tmp_path, "./rows.jsonl", "./model").config, "task": task}
    (tmp_path / "model").mkdir()

    def problem(model_type: str) -> RunError:
        (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(ConfigError) as raised:
            find_model(RunConfig.model_validate(run), TASKS[Task(task)])
        return raised.value

    refused, accepted = problem(kind), problem(can)
    assert refused.reason == "UnsupportedModel"
    assert refused.message == f"spec.model.uri: ./model is a {kind} model, which cannot do this task"
    assert (refused.hint or "").startswith(("model types that can: ", "did you mean "))
    assert accepted.message == "spec.model.uri: ./model has no tokenizer"


def with_only(**names: str) -> Spoil:
    """A tokenizer that knows no special tokens but these."""

    def spoil(model: Path) -> None:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        tokens = AutoTokenizer.from_pretrained(model).backend_tokenizer
        PreTrainedTokenizerFast(tokenizer_object=tokens, **names).save_pretrained(model)

    return spoil


def with_template(template: str) -> Spoil:
    def spoil(model: Path) -> None:
        (model / "chat_template.jinja").write_text(template)

    return spoil


def without_start(model: Path) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder_start_token_id": None}))


def as_it_is(model: Path) -> None:
    """Nothing is wrong with the model."""


LONG = " ".join(TEXTS[:3])
CUT = "shorten it, or cut such texts with spec.training.truncation: true"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("task", "kind", "spoil", "training", "row", "expected"),
    [
        pytest.param(
            "text-generation",
            "gpt2",
            as_it_is,
            {},
            {"messages": (ASKED, SAID)},
            (
                ConfigError,
                "NoChatTemplate",
                "spec.model.uri: its tokenizer has no chat template, which rows with messages need",
                "use a model made for chats, add a chat_template.jinja to this one, or give prompt + completion",
            ),
            id="messages, and no chat template",
        ),
        pytest.param(
            "text-generation",
            "qwen3",
            with_template(LAST_ONLY),
            {},
            {"messages": (ASKED, SAID, ASKED, SAID)},
            (
                DataError,
                "TemplateRewrites",
                "row 1 of rows.jsonl: the chat template says message 2 otherwise than as the answer to a prompt",
                "mark in the template what the assistant says with {% generation %} and {% endgeneration %}",
            ),
            id="a chat template that says turns otherwise when more follow",
        ),
        pytest.param(
            "text-generation",
            "qwen3",
            with_template(USERS_ONLY),
            {},
            {"messages": (ASKED, SAID)},
            (
                DataError,
                "MessagesRefused",
                "row 1 of rows.jsonl: the chat template refuses the messages: no user is known",
                "give turns in the order that the template takes, or remove the row",
            ),
            id="a chat template that refuses a role",
        ),
        pytest.param(
            "text-generation",
            "llama",
            as_it_is,
            {"maxLength": 8},
            {"messages": (ASKED, SAID)},
            (
                DataError,
                "NothingToLearn",
                "row 1 of rows.jsonl: none of its first 8 tokens is to be learned",
                "raise spec.training.maxLength, shorten what comes first, or remove the row",
            ),
            id="a conversation that is cut before the assistant's turn",
        ),
        pytest.param(
            "text-generation",
            "gpt2",
            as_it_is,
            {"maxLength": 4, "truncation": False},
            {"prompt": "order one red", "completion": " lamp in red"},
            (
                DataError,
                "TooLong",
                "row 1 of rows.jsonl: the row has more than the 4 tokens that the model or maxLength allows",
                CUT,
            ),
            id="a prompt with its completion, too long",
        ),
        pytest.param(
            "text-generation",
            "gpt2",
            with_only(),
            {},
            {"text": "order"},
            (
                ConfigError,
                "NoPadToken",
                "spec.model.uri: its tokenizer has neither a pad token nor an end-of-text token",
                "set pad_token in its tokenizer_config.json",
            ),
            id="no token to pad with",
        ),
        pytest.param(
            "text-generation",
            "gpt2",
            with_only(pad_token="<|endoftext|>"),
            {},
            {"text": "order"},
            (
                ConfigError,
                "NoEndToken",
                "spec.model.uri: its tokenizer has no end-of-text token",
                "set eos_token in its tokenizer_config.json",
            ),
            id="no token to end a text with",
        ),
        pytest.param(
            "preference-optimization",
            "gpt2",
            as_it_is,
            {"maxLength": 4, "truncation": False},
            {"prompt": "order one red", "chosen": " lamp in red", "rejected": " vase"},
            (
                DataError,
                "TooLong",
                "row 1 of rows.jsonl: the row has more than the 4 tokens that the model or maxLength allows",
                CUT,
            ),
            id="a pair, too long",
        ),
        pytest.param(
            "summarization",
            "bart",
            as_it_is,
            {"truncation": False},
            {"source": LONG * 3, "target": "a"},
            (
                DataError,
                "TooLong",
                "row 1 of rows.jsonl: the source has more than the 64 tokens that the model or maxLength allows",
                CUT,
            ),
            id="a source, too long",
        ),
        pytest.param(
            "translation",
            "t5",
            as_it_is,
            {"truncation": False, "maxLength": 8},
            {"source": "order", "target": LONG},
            (
                DataError,
                "TooLong",
                "row 1 of rows.jsonl: the target has more than the 8 tokens that the model or maxLength allows",
                CUT,
            ),
            id="a target, too long",
        ),
        pytest.param(
            "translation",
            "t5",
            without_start,
            {},
            {"source": "a", "target": "b"},
            (
                ConfigError,
                "NoStartToken",
                "spec.model.uri: its config.json has no decoder_start_token_id",
                "write the token there that its decoder begins with",
            ),
            id="a decoder that does not know how to begin",
        ),
        pytest.param(
            "image-text-to-text",
            "llava",
            as_it_is,
            {},
            {"prompt": "<image> what colour is it ?", "completion": " red"},
            (
                DataError,
                "ImageInPrompt",
                "row 1 of rows.jsonl: the prompt has <image>, which stands for the image",
                "leave it out; the image comes before the prompt by itself",
            ),
            id="the image's place in the prompt",
        ),
        pytest.param(
            "image-text-to-text",
            "llava",
            as_it_is,
            {"maxLength": 12},
            {"prompt": "what colour is it ?", "completion": " red"},
            (
                DataError,
                "TooLong",
                "row 1 of rows.jsonl: image and prompt are 41 tokens, and the model or maxLength allows 12",
                "shorten the prompt, raise spec.training.maxLength, or remove the row",
            ),
            id="an image that alone is too much",
        ),
        pytest.param(
            "image-text-to-text",
            "llava",
            as_it_is,
            {},
            {"prompt": "what colour is it ?", "completion": " red", "image": b"no image"},
            (
                DataError,
                "UnreadableImage",
                "row 1 of rows.jsonl: image cannot be read as an image: no known format",
                "give a PNG, JPEG, WebP, BMP, GIF or TIFF file, or remove the row",
            ),
            id="an image that cannot be read",
        ),
    ],
)
def test_rows_and_models_that_do_not_go_together(
    tmp_path: Path, task: str, kind: str, spoil: Spoil, training: Mapping[str, Any], row: Any, expected: object
) -> None:
    model = zoo.save(kind, tmp_path / "model", [*TEXTS, "what colour is it ?"])
    spoil(model)
    if task == "image-text-to-text":
        row = {
            **row,
            "image": image(row.get("image", picture(tmp_path)), Where("row 1 of rows.jsonl", "image", "image")),
        }
    with pytest.raises(RunError) as raised:
        open_task(task, model, **training).encode(rows_of([row]))
    assert told(raised.value) == expected


def picture(folder: Path) -> str:
    from PIL import Image

    path = folder / "red.png"
    Image.new("RGB", (32, 32), "red").save(path)
    return str(path)
