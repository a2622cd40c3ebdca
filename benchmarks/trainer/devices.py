"""What a GPU did, how much memory it took, and what it could do at most."""

from __future__ import annotations

import torch

PEAK_FLOPS = {"H100": (989e12, 1979e12), "H200": (989e12, 1979e12), "B200": (2250e12, 4500e12)}
"""Operations a second in bf16 and fp8, dense, by what is in the device's name: NVIDIA's data sheets (SXM)."""


def wait() -> None:
    """Until the device has done everything that it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib() -> float:
    """Most memory that tensors took on the device; 0 without one."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def name() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def peak_flops(precision: str) -> float | None:
    """What the device does a second at most; None where that is not known, as of a CPU."""
    own = name() or ""
    known = next((rates for part, rates in PEAK_FLOPS.items() if part in own), None)
    return None if known is None else known[precision == "fp8"]


def training_flops(model: torch.nn.Module, lengths: list[int], layers: int, width: int) -> float:
    """Multiplications and additions of one epoch, forward and backward, of a causal language model trained whole.

    6 for each weight of a matrix product and token (2 forward, 4 backward), and for attention, of which half is masked,
    6 * layers * width * length^2 (PaLM, Chowdhery et al. 2022, appendix B).
    """
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    return 6.0 * weights * sum(lengths) + 6.0 * layers * width * sum(length**2 for length in lengths)
