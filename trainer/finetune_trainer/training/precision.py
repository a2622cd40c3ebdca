"""Which number format the matrix products run in. Weights, optimizer and loss stay in 32 bits.

bf16 and fp16 are torch's autocast. fp16 has a short range, so its loss is scaled up, and a step whose gradient
overflows is left out (`Run.scaler`). fp8 is bf16 whose linear layers multiply in 8 bits (torchao).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_api.training import Precision
from finetune_trainer.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

FIELD = "spec.training.precision"
ENTRIES = ("forward", "generate", "detect_language")
"""What a model is asked to do as a whole; the latter two call parts of it without its forward."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""What Linux calls the instructions that multiply in bf16: without them bf16 is slower than fp32."""
ENOUGH = 5_000_000
"""Weights that are multiplied with, from which on bf16 pays on a CPU; below, copies take what it saves."""
BF16_GPU, FP8_GPU = (8, 0), (8, 9)
"""Compute capabilities from which on GPUs multiply in them."""
BLOCK = 16
"""Rows and columns of a matrix that fp8 multiplies come in multiples of this."""


def check_precision(config: RunConfig, gpus: int) -> None:
    """Raise ConfigError, without torch, for a precision that this run cannot have; it uses so many GPUs."""
    if config.training.precision is not Precision.FP8:
        return
    if not gpus:
        message = f"{FIELD}: fp8 needs a GPU of compute capability 8.9 or more, and this run has none"
        raise ConfigError("NotSupported", message, "use auto, or ask for a GPU with spec.resources.gpusPerNode")
    if config.method.type is MethodType.QLORA:
        message = f"{FIELD}: the weights of qlora have four bits, fp8 would make nothing of them faster"
        raise ConfigError("NotSupported", message, "use auto, or the method lora")


def choose_precision(requested: Precision, model: nn.Module, device: torch.device) -> Precision:
    """`auto` is bf16 where the processor multiplies in it and the model is large enough to gain by it, else fp32.

    Raises ConfigError for fp8 on a GPU that does not have it.
    """
    if requested is Precision.FP8:
        _check_capability(device)
    if requested is not Precision.AUTO:
        return requested
    if device.type == "cuda":
        return Precision.BF16 if _capability(device) >= BF16_GPU else Precision.FP32
    return Precision.BF16 if multiplies_bf16() and multiplied_weights(model) >= ENOUGH else Precision.FP32


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has instructions for it."""
    try:
        words = set(cpuinfo.read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(BF16_FLAGS & words)


def multiplied_weights(model: nn.Module) -> int:
    """Values of the matrices that activations are multiplied with; embeddings are only looked up."""
    from torch import nn

    looked_up = {item for module in model.modules() if isinstance(module, nn.Embedding) for item in module.parameters()}
    return sum(item.numel() for item in model.parameters() if item.ndim > 1 and item not in looked_up)


def _capability(device: torch.device) -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability(device)


def _check_capability(device: torch.device) -> None:
    has = _capability(device) if device.type == "cuda" else (0, 0)
    if has < FP8_GPU:
        what = f"the GPU's is {has[0]}.{has[1]}" if device.type == "cuda" else "this run has no GPU"
        message = f"{FIELD}: fp8 needs a GPU of compute capability 8.9 or more, {what}"
        raise ConfigError("NotSupported", message, "use auto")


def compute_in(model: nn.Module, precision: str, device: torch.device, emulate: bool = False) -> None:
    """From now on `model` multiplies in this precision, also where it writes by itself; what it returns has 32 bits.

    `emulate` computes fp8 in more bits, on hardware without it.
    """
    import torch
    from accelerate.utils import convert_to_fp32  # type: ignore[import-untyped]

    from finetune_trainer.training.sharded import is_sharded

    if precision == Precision.FP32:
        return
    if precision == Precision.FP8:
        _use_fp8(model, emulate)
    dtype = torch.float16 if precision == Precision.FP16 else torch.bfloat16

    def lowered(compute: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(compute)
        def lower(*arguments: Any, **named: Any) -> Any:
            # A cast that is kept from where no gradient is wanted would cut off those that are; one of sharded weights
            # would keep them whole.
            cached = torch.is_grad_enabled() and not is_sharded(model)
            with torch.autocast(device.type, dtype, cache_enabled=cached):
                outputs = compute(*arguments, **named)
            return convert_to_fp32(outputs)

        return lower

    for name in ENTRIES:
        if hasattr(model, name):
            object.__setattr__(model, name, lowered(getattr(model, name)))


def _use_fp8(model: nn.Module, emulate: bool) -> None:
    """With a scale for each row, the way of torchao that is nearest to bf16. Narrow layers, as heads, stay in bf16."""
    if sys.modules.get("torchao") is None:
        sys.modules.pop("torchao", None)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training  # type: ignore[import-untyped]

    how = replace(Float8LinearConfig.from_recipe_name("rowwise"), pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(model, config=how, module_filter_fn=lambda module, name: _fits(module))  # noqa: ARG005


def _fits(module: nn.Module) -> bool:
    from torch import nn

    sizes_fit = type(module) is nn.Linear and not module.in_features % BLOCK and not module.out_features % BLOCK
    # A layer with a forward of its own computes the loss of a language model in parts: see chunked_loss.
    return sizes_fit and "forward" not in vars(module)


@contextmanager
def kept_casts(model: nn.Module) -> Iterator[None]:
    """In this block weights are cast once, not once for each micro-batch. They must not change in it.

    Not weights that are sharded: those are whole only while they are computed with.
    """
    import torch

    from finetune_trainer.training.sharded import is_sharded

    if is_sharded(model):
        yield
        return
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
