"""dora: low-rank adapters that turn a layer's weights, and a length for each of their rows (Liu et al. 2024)."""

from __future__ import annotations

from finetune_trainer.methods.lora import LowRank


class WeightDecomposed(LowRank):
    """Always saved merged: transformers 5 leaves the lengths at what they were when it puts such an adapter on."""

    with_magnitudes = True
    put_on = False
