"""What of a row is learned: all of a text, a completion and its end, or exactly what the assistant says.

The tokenizers are those that GPT-2, Llama and Qwen come with; the templates are the zoo's and a few with traps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.tasks.text_generation import TextGeneration
from support import zoo
from support.corpora import text
from support.tasks import open_task, rows_of

pytestmark = pytest.mark.torch
TEXTS = [row["text"] for row in text.plain(200)] + ["you take orders"]
SYSTEM = {"role": "system", "content": "you take orders"}
ASKED = {"role": "user", "content": "order one red lamp"}
SAID = {"role": "assistant", "content": "lamp in red times one"}
MORE = {"role": "user", "content": "order two blue vase"}
THEN = {"role": "assistant", "content": "vase in blue times two"}
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BEGUN = "{{ bos_token }}{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

Opened = Callable[[str], TaskKind]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """text-generation on a model of the zoo."""
    made: dict[str, TaskKind] = {}

    def open_kind(kind: str) -> TaskKind:
        if kind not in made:
            folder: Path = zoo.save(kind, tmp_path_factory.mktemp(kind) / "model", TEXTS)
            made[kind] = open_task("text-generation", folder)
        return made[kind]

    return open_kind


def tokens(task: TaskKind, values: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """All tokens of a row, and those to learn."""
    assert isinstance(task, TextGeneration)
    (example,), _ = task.encode(rows_of([values]))
    return example["input_ids"].tolist(), example["input_ids"][example["learned"]].tolist()


@pytest.mark.parametrize(
    ("kind", "values", "whole", "learned"),
    [
        pytest.param(
            "gpt2",
            {"text": "order one red lamp"},
            "order one red lamp<|endoftext|>",
            " one red lamp<|endoftext|>",
            id="a text and its end, but for its first token",
        ),
        pytest.param(
            "gpt2",
            {"prompt": "order one red", "completion": " lamp"},
            "order one red lamp<|endoftext|>",
            " lamp<|endoftext|>",
            id="a completion and its end",
        ),
        pytest.param(
            "llama",
            {"prompt": "order one red", "completion": " lamp"},
            "order one red lamp</s>",
            "lamp</s>",
            id="a completion, where words begin with a mark",
        ),
        pytest.param(
            "llama",
            {"messages": (SYSTEM, ASKED, SAID, MORE, THEN)},
            "<s><<you take orders>>[INST] order one red lamp [/INST] lamp in red times one</s>"
            "[INST] order two blue vase [/INST] vase in blue times two</s>",
            "lamp in red times one</s> vase in blue times two</s>",
            id="each turn of the assistant, found in the text",
        ),
        pytest.param(
            "qwen3",
            {"messages": (ASKED, SAID, MORE)},
            "<|im_start|>user\norder one red lamp<|im_end|>\n<|im_start|>assistant\nlamp in red times one<|im_end|>\n"
            "<|im_start|>user\norder two blue vase<|im_end|>\n",
            "lamp in red times one<|im_end|>\n",
            id="no turn of the user, also after the assistant's",
        ),
    ],
)
def test_what_is_learned(opened: Opened, kind: str, values: Mapping[str, Any], whole: str, learned: str) -> None:
    task = opened(kind)
    found = [task.tokenizer.decode(ids) for ids in tokens(task, values)]  # type: ignore[attr-defined]
    assert found == [whole, learned]


def test_a_template_that_marks_what_is_said_is_believed(tmp_path: Path) -> None:
    """The line's end after a turn is not marked, so it is not learned."""
    task = opened_with(zoo.save("qwen3", tmp_path / "model", TEXTS), MARKED)
    _, learned = tokens(task, {"messages": (ASKED, SAID, MORE, THEN)})
    said = task.tokenizer.decode(learned)  # type: ignore[attr-defined]
    assert said == "lamp in red times one<|im_end|>vase in blue times two<|im_end|>"


def opened_with(model: Path, template: str) -> TaskKind:
    """With another chat template."""
    (model / "chat_template.jinja").write_text(template)
    return open_task("text-generation", model)


def test_a_prompt_is_the_same_alone_and_before_its_completion(opened: Opened) -> None:
    """Joined, the blank at the prompt's end would become part of the completion's first token."""
    task = opened("gpt2")
    tokenizer: Any = task.tokenizer  # type: ignore[attr-defined]
    prompt, completion = "order one ", "lamp"
    alone, joined = tokenizer(prompt)["input_ids"], tokenizer(prompt + completion)["input_ids"]
    assert joined[: len(alone)] != alone
    whole, learned = tokens(task, {"prompt": prompt, "completion": completion})
    assert whole == [*alone, *learned]
    assert tokenizer.decode(learned) == "lamp<|endoftext|>"


def test_a_text_begins_once(tmp_path: Path) -> None:
    """Whether the tokenizer puts the beginning before a text, or the template says it."""
    from transformers import AutoTokenizer

    folder = zoo.save("llama", tmp_path / "model", TEXTS)
    AutoTokenizer.from_pretrained(folder, add_bos_token=True).save_pretrained(folder)
    task = opened_with(folder, BEGUN)
    begin: int = task.tokenizer.bos_token_id  # type: ignore[attr-defined]
    rows = ({"text": "order one"}, {"prompt": "order", "completion": " one"}, {"messages": (ASKED, SAID)})
    assert [tokens(task, row)[0].count(begin) for row in rows] == [1, 1, 1]


def test_what_is_cut_is_not_learned(tmp_path: Path) -> None:
    """A long text loses its end, and with it the end-of-text token; it is counted."""
    folder = zoo.save("gpt2", tmp_path / "model", TEXTS)
    task = open_task("text-generation", folder, maxLength=4)
    rows = rows_of([{"text": "order one red lamp in red"}, {"text": "order"}])
    examples, cut = task.encode(rows)
    decoded = [task.tokenizer.decode(example["input_ids"].tolist()) for example in examples]  # type: ignore[attr-defined]
    assert (decoded, cut) == (["order one red lamp", "order<|endoftext|>"], 1)
