"""Rows to write as tokens, and which of them are learned: all, a completion, or what the assistant says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.tasks import texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]
ASSISTANT = "assistant"
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""A chat template that itself says what the assistant says."""


@dataclass(frozen=True)
class Tokens:
    """Tokens, and the places of those to learn. Nothing stands before the first one, so it never is."""

    ids: list[int]
    learned: Sequence[int]

    def cut(self, length: int) -> Tokens:
        return Tokens(self.ids[:length], [place for place in self.learned if place < length])


def has_answer(values: Mapping[str, Any]) -> bool:
    """Whether a row has anything to learn: rows to predict may not."""
    if "messages" in values:
        return any(message["role"] == ASSISTANT for message in values["messages"])
    return "text" in values or "completion" in values


def encode(tokenizer: PreTrainedTokenizerBase, row: Row) -> Tokens:
    """A text, a prompt with its completion, or messages; text and completion with the end-of-text token after them.

    Raises DataError if the chat template cannot say the messages.
    """
    values = row.values
    if "text" in values:
        ids = [*_text(tokenizer, values["text"]), _end(tokenizer)]
        return Tokens(ids, range(1, len(ids)))
    if "completion" in values:
        return completed(tokenizer, values["prompt"], values["completion"])
    if has_answer(values):
        return _conversation(tokenizer, values["messages"], row.place)
    return Tokens(prompt(tokenizer, row), [])


def completed(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Tokens:
    """The prompt as it is when it stands alone, then the completion and the end-of-text token, which are learned.

    Where tokens of the joined text would cross from one into the other, the two are encoded apart.
    """
    before, joined = _text(tokenizer, prompt), _text(tokenizer, prompt + completion)
    if joined[: len(before)] != before or len(joined) == len(before):
        joined = [*before, *tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"]]
    return Tokens([*joined, _end(tokenizer)], range(max(len(before), 1), len(joined) + 1))


def prompt(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
    """What the model is asked to continue; of messages all before the last turn if that is the assistant's."""
    values = row.values
    if "messages" not in values:
        return _text(tokenizer, values["text"] if "text" in values else values["prompt"])
    messages = values["messages"]
    asked = messages[:-1] if messages[-1]["role"] == ASSISTANT else messages
    said = _said(tokenizer, asked, row.place, add_generation_prompt=True)
    ids: list[int] = tokenizer(said, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ConfigError if the tokenizer cannot say messages."""
    if not tokenizer.chat_template:
        message = "spec.model.uri: its tokenizer has no chat template, which rows with messages need"
        hint = "use a model made for chats, add a chat_template.jinja to this one, or give prompt + completion"
        raise ConfigError("NoChatTemplate", message, hint)
    texts.check_offsets(tokenizer)


def _text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """With what the tokenizer puts before a text, without the end-of-text token."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    end: int = tokenizer.eos_token_id
    return end


def _conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages, place: str) -> Tokens:
    if MARKED.search(tokenizer.get_chat_template()):
        return _marked(tokenizer, messages, place)
    whole = _said(tokenizer, messages, place)
    learned = bytearray(len(whole) + 1)
    for start, end in _turns(tokenizer, messages, whole, place):
        learned[start:end] = bytes([1]) * (end - start)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = enumerate(encoded["offset_mapping"])
    places = [number for number, (start, end) in offsets if number and end > start and learned[start]]
    return Tokens(encoded["input_ids"], places)


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Messages, place: str) -> Tokens:
    try:
        encoded: Any = tokenizer.apply_chat_template(list(messages), return_assistant_tokens_mask=True)
    except Exception as error:
        raise _refused(place, error) from error
    mask = enumerate(encoded["assistant_masks"])
    return Tokens(encoded["input_ids"], [number for number, learned in mask if learned and number])


def _turns(tokenizer: PreTrainedTokenizerBase, messages: Messages, whole: str, place: str) -> Iterator[tuple[int, int]]:
    """Where in the whole text each turn of the assistant begins and ends: what it says and what ends it."""
    for number, message in enumerate(messages):
        if message["role"] == ASSISTANT:
            before = _said(tokenizer, messages[:number], place, add_generation_prompt=True)
            after = _said(tokenizer, messages[: number + 1], place)
            if not (after.startswith(before) and whole.startswith(after)):
                raise _rewritten(place, number)
            yield len(before), len(after)


def _said(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, place: str, add_generation_prompt: bool = False
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except Exception as error:
        raise _refused(place, error) from error


def _refused(place: str, error: Exception) -> DataError:
    message = f"{place}: the chat template refuses the messages: {error}"
    return DataError("MessagesRefused", message, "give turns in the order that the template takes, or remove the row")


def _rewritten(place: str, number: int) -> DataError:
    message = f"{place}: the chat template says message {number + 1} otherwise than as the answer to a prompt"
    hint = "mark in the template what the assistant says with {% generation %} and {% endgeneration %}"
    return DataError("TemplateRewrites", message, hint)
