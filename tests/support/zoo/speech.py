"""Wav2Vec2 in both of its forms, and Whisper, for clips of up to two seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from support.zoo import tokens

SECONDS = 2
LANGUAGES = ("<|en|>", "<|de|>")
TASKS = ("<|translate|>", "<|transcribe|>")
OTHERS = ("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
TIMES = tuple(f"<|{step / 50:.2f}|>" for step in range(50 * SECONDS + 1))


def save(folder: Path, kind: str, texts: Sequence[str], dropout: float) -> None:
    if kind == "whisper":
        _whisper(folder, texts, dropout)
    else:
        _wav2vec2(folder, texts, dropout, by_layer=kind == "wav2vec2-layer-norm")


def _wav2vec2(folder: Path, texts: Sequence[str], dropout: float, by_layer: bool) -> None:
    """Normalized over groups as wav2vec2-base, which takes no attention mask, or by layers as the large ones."""
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=by_layer)
    Wav2Vec2Processor(extractor, _characters(texts)).save_pretrained(folder)
    drops = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.1,
        conv_dim=[32] * 7,
        conv_bias=by_layer,
        feat_extract_norm="layer" if by_layer else "group",
        do_stable_layer_norm=by_layer,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=32,
        codevector_dim=16,
        proj_codevector_dim=16,
        num_codevectors_per_group=8,
        layerdrop=dropout,
        apply_spec_augment=dropout > 0,
        mask_time_prob=0.05 if dropout else 0.0,
        mask_time_length=2,
        **dict.fromkeys(drops, dropout),
    )
    Wav2Vec2Model(config).save_pretrained(folder)


def _characters(texts: Sequence[str]) -> Wav2Vec2CTCTokenizer:
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({name: number for number, name in enumerate(names)}))
        return Wav2Vec2CTCTokenizer(str(path))


def _whisper(folder: Path, texts: Sequence[str], dropout: float) -> None:
    start, end = "<|startoftranscript|>", "<|endoftext|>"
    special = [end, start, *LANGUAGES, *TASKS, *OTHERS]
    tokenizer = WhisperTokenizer(
        **tokens.byte_pairs(texts, [*special, *TIMES]),
        pad_token=end,
        extra_special_tokens=special[1:],
        language="en",
        task="transcribe",
        model_max_length=tokens.LENGTH,
    )
    WhisperProcessor(WhisperFeatureExtractor(feature_size=40, chunk_length=SECONDS), tokenizer).save_pretrained(folder)
    number = tokenizer.convert_tokens_to_ids
    model = WhisperForConditionalGeneration(_whisper_config(tokenizer, number(start), dropout))
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={language: number(language) for language in LANGUAGES},
        task_to_id={task[2:-2]: number(task) for task in TASKS},
        no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"),
        max_initial_timestamp_index=50,
        decoder_start_token_id=number(start),
        bos_token_id=number(end),
        eos_token_id=number(end),
        pad_token_id=number(end),
        begin_suppress_tokens=[number(end)],
        max_length=tokens.LENGTH,
        return_timestamps=False,
    )
    model.save_pretrained(folder)


def _whisper_config(tokenizer: WhisperTokenizer, start: int, dropout: float) -> WhisperConfig:
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    return WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=40,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        init_std=0.08,
        max_source_positions=50 * SECONDS,
        max_target_positions=tokens.LENGTH,
        decoder_start_token_id=start,
        begin_suppress_tokens=[tokenizer.eos_token_id],
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        encoder_layerdrop=dropout,
        decoder_layerdrop=dropout,
        apply_spec_augment=dropout > 0,
        mask_time_length=2,
        **ends,
    )
