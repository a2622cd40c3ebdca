"""Texts, or pairs of texts, as tokens: what all tasks share whose model reads a text from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import DataError
from finetune_trainer.model_folder import ModelFolder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

NAMES = ("input_ids", "token_type_ids")


def longest(source: ModelFolder, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> int:
    """Most tokens that the model takes, or that the manifest allows."""
    limits = (config.training.max_length, source.positions, tokenizer.model_max_length)
    return min(limit for limit in limits if limit is not None)


def encode(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int, truncation: bool
) -> tuple[list[dict[str, Any]], int]:
    """`text`, and `textPair` where rows have it, as token numbers; and how many were cut to `max_length` tokens.

    Raises DataError for a text that is too long, if texts are not to be cut.
    """
    texts = [row.values["text"] for row in rows]
    pairs = [row.values["textPair"] for row in rows] if "textPair" in rows[0].values else None
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    cut = [place for place, encoding in enumerate(encoded.encodings or ()) if encoding.overflowing]
    if cut and not truncation:
        raise too_long(rows[cut[0]], max_length)
    names = [name for name in NAMES if name in encoded]
    columns = zip(*(encoded[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in columns], len(cut)


def too_long(row: Row, max_length: int) -> DataError:
    message = f"{row.place}: the text has more than the {max_length} tokens that the model or maxLength allows"
    return DataError("TooLong", message, "shorten it, or cut such texts with spec.training.truncation: true")


def pad(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
    """The examples' tokens as tensors of shape (rows, longest), with the attention mask."""
    inputs = [{name: example[name] for name in NAMES if name in example} for example in examples]
    return dict(tokenizer.pad(inputs, padding_side="right", return_tensors="pt"))
