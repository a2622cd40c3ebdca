"""Tokenizers of the sorts that the architectures come with, trained on a test's own texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any

from tokenizers import (
    ByteLevelBPETokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, RobertaTokenizer

SIZE = 400
LENGTH = 64
"""`model_max_length` of tokenizers whose models have that many positions."""


def word_piece(texts: Sequence[str], inputs: Sequence[str]) -> PreTrainedTokenizerBase:
    """As BERT and DistilBERT have it."""
    tokenizer = Tokenizer(models.WordPiece(_words_and_letters(texts), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    names |= {"mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LENGTH, model_input_names=list(inputs), **names
    )


def _words_and_letters(texts: Sequence[str]) -> dict[str, int]:
    """The most frequent words, and every letter for the others.

    Not by the library's trainer for word pieces, which finds others in every process.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(set().union(*counts))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words])
    return {piece: number for number, piece in enumerate(list(pieces)[:SIZE])}


def byte_level_with_mask(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """As RoBERTa and BART have it."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=SIZE, special_tokens=special, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=LENGTH)


def byte_pairs(texts: Sequence[str], special: Sequence[str] = (), **of_words: str) -> dict[str, Any]:
    """Vocabulary and merges over bytes, the special tokens last, as GPT-2, Qwen, Whisper and CLIP are given them."""
    tokenizer = Tokenizer(models.BPE(**of_words))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, initial_alphabet=alphabet, **of_words)
    tokenizer.train_from_iterator(texts, trainer)
    return _with(tokenizer, special)


def word_pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Vocabulary and merges over characters, with bytes for those that are unknown, as Llama is given them."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=len(special) + SIZE - 256, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _with(tokenizer, ())


def pieces(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Words and letters with their log-probabilities, as T5 is given them.

    Made here, because the library's trainer finds no piece that few words share, and leaves single letters.
    """
    counts = Counter(f"▁{word}" for text in texts for word in text.split()).most_common(SIZE)
    total = sum(count for _, count in counts)
    letters = sorted({"▁", *(letter for text in texts for letter in text if not letter.isspace())})
    words = [(word, log(count / total)) for word, count in counts]
    return [*((token, 0.0) for token in ("<pad>", "</s>", "<unk>")), *words, *((letter, -15.0) for letter in letters)]


def _with(tokenizer: Tokenizer, special: Sequence[str]) -> dict[str, Any]:
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = model["vocab"] | {token: len(model["vocab"]) + place for place, token in enumerate(special)}
    return {"vocab": vocabulary, "merges": [tuple(pair) for pair in model["merges"]]}
