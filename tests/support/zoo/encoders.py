"""BERT, RoBERTa and DistilBERT: the model without a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoModel

from support.zoo import tokens

SPREAD = 0.1
"""Of the first weights: five times the usual, because a layer of 32 learns nothing from less within seconds."""


def save(folder: Path, kind: str, texts: Sequence[str], dropout: float) -> None:
    if kind == "roberta":
        tokenizer = tokens.byte_level_with_mask(texts)
    else:
        types = ["token_type_ids"] if kind == "bert" else []
        tokenizer = tokens.word_piece(texts, ["input_ids", "attention_mask", *types])
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(kind, **_sizes(kind, dropout), vocab_size=len(tokenizer))
    AutoModel.from_config(config).save_pretrained(folder)


def _sizes(kind: str, dropout: float) -> dict[str, float]:
    if kind == "distilbert":
        shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64}
        shape["initializer_range"] = SPREAD
        drops = ("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout")
        return shape | dict.fromkeys(drops, dropout)
    return {
        "hidden_size": 32,
        "initializer_range": SPREAD,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 66 if kind == "roberta" else 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
