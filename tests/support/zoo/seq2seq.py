"""T5 and BART: models that write one text after reading another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration, T5Tokenizer

from support.zoo import tokens


def save(folder: Path, kind: str, texts: Sequence[str], dropout: float) -> None:
    {"t5": _t5, "bart": _bart}[kind](folder, texts, dropout)


def _t5(folder: Path, texts: Sequence[str], dropout: float) -> None:
    tokenizer = T5Tokenizer(vocab=tokens.pieces(texts), extra_ids=0, model_max_length=tokens.LENGTH)
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=dropout,
        classifier_dropout=dropout,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)


def _bart(folder: Path, texts: Sequence[str], dropout: float) -> None:
    tokenizer = tokens.byte_level_with_mask(texts)
    tokenizer.save_pretrained(folder)
    config = BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokens.LENGTH,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        init_std=0.08,
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        classifier_dropout=dropout,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
