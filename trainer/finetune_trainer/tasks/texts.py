"""Texts, or pairs of texts, as tokens: what all tasks share whose model reads a text from end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import pretrained

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

NAMES = ("input_ids", "token_type_ids")
MOST_TOKENS = 1_000_000
"""Of a text, where neither model nor tokenizer knows a limit: what maxLength may be at most."""


def longest(source: ModelFolder, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> int:
    """Most tokens that the model takes beside those of the method, or that the manifest allows."""
    positions = None if source.positions is None else source.positions - config.method.virtual_tokens
    limits = (config.training.max_length, positions, tokenizer.model_max_length, MOST_TOKENS)
    return min(limit for limit in limits if limit is not None)


def encode(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int, truncation: bool
) -> tuple[list[dict[str, Any]], int]:
    """`text`, and `textPair` where rows have it, as token numbers; and how many were cut to `max_length` tokens.

    Raises DataError for a text that is too long, if texts are not to be cut.
    """
    texts = [row.values["text"] for row in rows]
    pairs = [row.values["textPair"] for row in rows] if "textPair" in rows[0].values else None
    encoded, cut = tokenize(tokenizer, rows, texts, max_length, truncation, pairs)
    return examples_of(encoded), cut


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    texts: Sequence[str],
    max_length: int,
    truncation: bool,
    pairs: Sequence[str] | None = None,
) -> tuple[BatchEncoding, int]:
    """One text, or pair of texts, of each row; and how many were cut to `max_length` tokens.

    Raises DataError for a text that is too long, if texts are not to be cut.
    """
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    cut = [place for place, encoding in enumerate(encoded.encodings or ()) if encoding.overflowing]
    if cut and not truncation:
        raise too_long(rows[cut[0]], max_length)
    return encoded, len(cut)


def examples_of(encoded: BatchEncoding) -> list[dict[str, Any]]:
    """What the model reads of each text, as lists of numbers."""
    names = [name for name in NAMES if name in encoded]
    columns = zip(*(encoded[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in columns]


def check_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ConfigError if the tokenizer cannot say where in a text its tokens stand."""
    if not tokenizer.is_fast:
        message = "spec.model.uri: its tokenizer does not say where in a text its tokens stand"
        raise ConfigError("SlowTokenizer", message, "use a model that has a tokenizer.json")


def too_long(row: Row, max_length: int, what: str = "text") -> DataError:
    message = f"{row.place}: the {what} has more than the {max_length} tokens that the model or maxLength allows"
    return DataError("TooLong", message, "shorten it, or cut such texts with spec.training.truncation: true")


def pad(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
    """The examples' tokens as tensors of shape (rows, longest), with the attention mask."""
    inputs = [{name: example[name] for name in NAMES if name in example} for example in examples]
    return dict(tokenizer.pad(inputs, padding_side="right", return_attention_mask=True, return_tensors="pt"))


def load_classifier(
    source: ModelFolder, config: RunConfig, tokenizer: PreTrainedTokenizerBase, head: Mapping[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    """A model that says something of a whole text; `head` is what its configuration says of that."""
    from transformers import AutoModelForSequenceClassification

    model_config = pretrained.load_config(source, config, **head)
    # Decoders read their answer from a text's last token, which they find by the token for padding.
    model_config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return pretrained.load_weights(AutoModelForSequenceClassification, source, config, model_config)
