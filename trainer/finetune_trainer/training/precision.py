"""Which number format the matrix products run in. Weights, optimizer and loss stay in 32 bits."""

from __future__ import annotations

import torch

from finetune_api.training import Precision


def choose_precision(requested: Precision, device: torch.device) -> Precision:
    """fp32 or bf16. `auto` is bf16 on a GPU that computes in it, and fp32 on a CPU.

    On a CPU with avx512_bf16 a step takes 0.6 of the time in bf16, but then the number of processes shows in the third
    digit of the weights instead of the sixth; so there bf16 has to be asked for.
    """
    if requested is not Precision.AUTO:
        return requested
    on_gpu = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return Precision.BF16 if on_gpu else Precision.FP32
