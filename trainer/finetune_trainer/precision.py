"""Which number format the matrix products run in. Weights, optimizer and loss stay in 32 bits."""

from __future__ import annotations

import torch

from finetune_api.job import Precision


def choose_precision(requested: Precision, device: torch.device) -> Precision:
    """fp32 or bf16. `auto` is bf16 where the hardware computes in it."""
    if requested is not Precision.AUTO:
        return requested
    return Precision.BF16 if _computes_in_bf16(device) else Precision.FP32


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
