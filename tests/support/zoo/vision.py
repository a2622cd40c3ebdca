"""ResNet, EfficientNet and ViT: the model without a head, and the image processor of its family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoModel
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIDE = 32


def save(folder: Path, kind: str, texts: Sequence[str], dropout: float) -> None:  # noqa: ARG001
    square = {"height": SIDE, "width": SIDE}
    processor = {
        "resnet": lambda: ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=0.875),
        "efficientnet": lambda: EfficientNetImageProcessorPil(size=square),
        "vit": lambda: ViTImageProcessorPil(size=square),
    }[kind]()
    processor.save_pretrained(folder)
    AutoModel.from_config(AutoConfig.for_model(kind, **_sizes(kind, dropout))).save_pretrained(folder)


def _sizes(kind: str, dropout: float) -> dict[str, object]:
    if kind == "resnet":
        return {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    if kind == "efficientnet":
        blocks = {"kernel_sizes": [3, 3], "in_channels": [32, 32], "out_channels": [32, 48], "strides": [1, 2]}
        blocks |= {"num_block_repeats": [1, 1], "expand_ratios": [1, 4], "hidden_dim": 640}
        scale = {"width_coefficient": 0.5, "depth_coefficient": 1.0, "image_size": SIDE}
        return blocks | scale | {"dropout_rate": dropout, "drop_connect_rate": dropout, "initializer_range": 0.1}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"image_size": SIDE, "patch_size": 8, "encoder_stride": 8, "pooler_output_size": 32}
    return sizes | {
        "initializer_range": 0.1,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
