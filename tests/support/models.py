"""Sentences with labels, and small real encoders whose tokenizers are trained on them."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from support import zoo

LABELS = ("delivery", "invoice", "praise")
WORDS = {
    "delivery": ("parcel", "courier", "late", "address", "truck"),
    "invoice": ("bill", "charged", "refund", "euro", "payment"),
    "praise": ("thanks", "lovely", "great", "happy", "perfect"),
}
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
    """A pre-trained encoder without a head, as its author would have saved it, with its tokenizer."""
    return zoo.save(kind, folder, [text for text, _ in sentences(200)], dropout)
