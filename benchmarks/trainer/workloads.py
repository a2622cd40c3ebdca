"""What is trained: one table of workloads, sized so that one side of each takes 20 to 60 seconds on two cores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.trainer.words import Lengths

FACTS = "facts.json"
CONFIG = "config-{side}.json"
"""The run of a side that is ours."""
SEED = 7
"""Of data, order, new weights and dropout."""
ENCODER = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
"""As MiniLM, the quickstart's encoder."""
DECODER = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
}
READER = {"d_model": 384, "d_kv": 64, "num_heads": 6, "d_ff": 1536, "num_layers": 4, "num_decoder_layers": 4}
PATCHES = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "image_size": 224,
    "patch_size": 16,
}
LISTENER = {
    "hidden_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "conv_dim": [256] * 7,
    "vocab_size": 15,
}
ONE_BILLION = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B."""
TINY: Mapping[str, Mapping[str, Any]] = {
    "bert": ENCODER | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "llama": DECODER | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "t5": READER | {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2},
    "vit": PATCHES | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "wav2vec2": LISTENER | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "conv_dim": [32] * 7},
}


@dataclass(frozen=True)
class Workload:
    """`rows` is a multiple of `batch`, so that every step has as many.

    `pad_to` is the length that the example scripts pad every row of this task to; None where they pad as (a) does.
    `max_length` cuts longer rows on both sides.
    """

    name: str
    task: str
    corpus: str
    lengths: Lengths
    model: str
    shape: Mapping[str, Any]
    rows: int
    batch: int
    epochs: int = 1
    learning_rate: float = 1e-4
    words: int = 30_000
    max_length: int | None = None
    pad_to: int | None = None
    method: Mapping[str, Any] = field(default_factory=dict)
    dropout: float = 0.1
    gpu: bool = False

    @property
    def steps(self) -> int:
        return self.rows // self.batch * self.epochs


def _encoder(name: str, corpus: str, lengths: Lengths, rows: int, batch: int, **more: Any) -> Workload:
    task = more.pop("task", "text-classification")
    return Workload(name, task, corpus, lengths, "bert", ENCODER, rows, batch, max_length=lengths.most, **more)


def _decoder(name: str, corpus: str, lengths: Lengths, rows: int, batch: int, **more: Any) -> Workload:
    known: dict[str, Any] = {"shape": DECODER, "words": 16_000, "dropout": 0.0, "max_length": lengths.most} | more
    return Workload(name, "text-generation", corpus, lengths, "llama", rows=rows, batch=batch, **known)


SHORT = Lengths(13, 0.75, 3, 66)
CHAT = Lengths(350, 0.9, 20, 1024)
WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        _encoder("short", "labelled", SHORT, 1536, 32, epochs=2, pad_to=128),
        _encoder("pairs", "pairs", Lengths(50, 0.35, 12, 128), 1024, 32, pad_to=128),
        _encoder("long", "labelled", Lengths(290, 0.6, 20, 512), 192, 16, pad_to=512),
        _encoder(
            "question-answering",
            "questions",
            Lengths(160, 0.4, 40, 384),
            320,
            16,
            task="question-answering",
            pad_to=384,
        ),
        Workload(
            "summarization",
            "summarization",
            "summaries",
            Lengths(200, 0.5, 24, 512),
            "t5",
            READER,
            288,
            16,
            words=16_000,
            max_length=512,
        ),
        _decoder("chat", "conversations", CHAT, 128, 8),
        Workload(
            "image-classification", "image-classification", "pictures", Lengths(1, 0.0, 1, 1), "vit", PATCHES, 512, 32
        ),
        Workload(
            "ctc", "automatic-speech-recognition", "sounds", Lengths(300, 0.5, 100, 800), "wav2vec2", LISTENER, 96, 8
        ),
        _encoder(
            "frozen", "labelled", SHORT, 1024, 32, epochs=5, learning_rate=1e-3, pad_to=128, method={"type": "freeze"}
        ),
        _decoder(
            "lora",
            "completions",
            Lengths(120, 0.6, 16, 512),
            320,
            16,
            learning_rate=1e-3,
            method={"type": "lora", "lora": {"r": 16, "alpha": 32}},
        ),
        _decoder(
            "chat-1b",
            "conversations",
            Lengths(350, 0.9, 20, 2048),
            1024,
            32,
            shape=ONE_BILLION,
            max_length=2048,
            learning_rate=2e-5,
            gpu=True,
        ),
    )
}


def quick(workload: Workload) -> Workload:
    """The same in seconds: tiny, 48 rows, and without dropout, so that the losses of both sides can be compared."""
    lengths = workload.lengths
    if workload.model in ("bert", "llama", "t5"):
        lengths = Lengths(max(lengths.mean / 4, 12), lengths.spread, 12, min(lengths.most, 64))
    longest = None if workload.max_length is None else min(workload.max_length, 64)
    return replace(
        workload,
        shape=TINY[workload.model],
        lengths=lengths,
        rows=48,
        batch=8,
        epochs=min(workload.epochs, 2),
        words=600,
        max_length=longest,
        pad_to=None if workload.pad_to is None else 64,
        dropout=0.0,
        learning_rate=1e-3,
        gpu=False,
    )


def part_of(workload: Workload, share: float) -> Workload:
    """The same with fewer rows, in whole steps."""
    return replace(workload, rows=max(1, round(workload.rows * share / workload.batch)) * workload.batch)


def tell_workload(workload: Workload, precision: str, gpus: int, folder: Path) -> None:
    """Write what is to be trained, and how ours is to, into `workload.json`."""
    said = {"workload": asdict(workload), "precision": precision, "gpus": gpus}
    (folder / "workload.json").write_text(json.dumps(said), encoding="utf-8")


def read_workload(folder: Path) -> tuple[Workload, str, int]:
    """What `tell_workload` wrote."""
    said = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    workload = Workload(**{**said["workload"], "lengths": Lengths(**said["workload"]["lengths"])})
    return workload, said["precision"], said["gpus"]
