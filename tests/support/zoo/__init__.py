"""Every architecture that the trainer knows, tiny and with random weights, saved as its authors would have saved it.

The classes are transformers' own, at two layers of 32 or 64 values; tokenizers are trained on the texts that a test
uses. Nothing is dropped or masked at random unless `dropout` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

Saver = Callable[[Path, str, Sequence[str], float], None]

HOMES: Mapping[str, str] = {
    **dict.fromkeys(("bert", "roberta", "distilbert"), "encoders"),
    **dict.fromkeys(("gpt2", "llama", "qwen3"), "decoders"),
    **dict.fromkeys(("t5", "bart"), "seq2seq"),
    **dict.fromkeys(("resnet", "efficientnet", "vit"), "vision"),
    **dict.fromkeys(("wav2vec2", "wav2vec2-layer-norm", "whisper"), "speech"),
    **dict.fromkeys(("clip", "llava"), "pictures_and_words"),
}
KINDS = tuple(HOMES)


def save(kind: str, folder: Path, texts: Sequence[str] = (), dropout: float = 0.0) -> Path:
    """Save a model of one of `KINDS` with what prepares its inputs; those that read are trained on `texts`."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    saver: Saver = import_module(f"support.zoo.{HOMES[kind]}").save
    saver(folder, kind, texts, dropout)
    return folder


def kept(root: Path, texts: Sequence[str]) -> Callable[[str], Path]:
    """Gives the folder of a model of a kind, made below `root` once."""

    def folder(kind: str) -> Path:
        path = root / kind / "model"
        return path if path.exists() else save(kind, path, texts)

    return folder
