"""Small real models: the true architectures with few weights, and tokenizers trained on the tests' own text."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

LABELS = ("delivery", "invoice", "praise")
WORDS = {
    "delivery": ("parcel", "courier", "late", "address", "truck"),
    "invoice": ("bill", "charged", "refund", "euro", "payment"),
    "praise": ("thanks", "lovely", "great", "happy", "perfect"),
}
SPREAD = 0.1
"""Of the first weights: five times the usual, because a layer of 32 learns nothing from less within seconds."""
FILLERS = ("the", "my", "a", "was", "is", "with", "this", "very", "today", "again", "and", "so")


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label): words that tell the label among words that do not, of many lengths, no two alike."""
    draw = random.Random(seed)
    rows = []
    for number, label in zip(range(count), itertools.cycle(LABELS), strict=False):
        words = [draw.choice(FILLERS) for _ in range(draw.randint(2, 20))]
        for word in draw.sample(WORDS[label], 2):
            words.insert(draw.randint(0, len(words)), word)
        rows.append((f"{' '.join(words)} {number}", label))
    return rows


def write_rows(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """A CSV file with the columns text and label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def save_model(folder: Path, kind: str = "bert", dropout: float = 0.1) -> Path:
    """A pre-trained model without a head, as its author would have saved it, with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.utils.logging import disable_progress_bar

    torch.manual_seed(0)
    size = _save_tokenizer(folder, kind)
    config = AutoConfig.for_model(kind, **_sizes(kind, dropout), vocab_size=size)
    disable_progress_bar()
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def _sizes(kind: str, dropout: float) -> dict[str, float]:
    if kind == "distilbert":
        shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64}
        shape["initializer_range"] = SPREAD
        return shape | {"dropout": dropout, "attention_dropout": dropout, "seq_classif_dropout": dropout}
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


def _save_tokenizer(folder: Path, kind: str) -> int:
    """Train a tokenizer of the kind that this architecture comes with; returns its size."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [text for text, _ in sentences(200)]
    if kind == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(texts, vocab_size=400, special_tokens=special, show_progress=False)
        tokenizer = Tokenizer.from_str(trained.to_str())
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
        names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
        inputs = ["input_ids", "attention_mask"]
    else:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        names |= {"mask_token": "[MASK]"}
        inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind == "bert" else [])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, model_input_names=inputs, **names)
    fast.save_pretrained(folder)
    return len(fast)
