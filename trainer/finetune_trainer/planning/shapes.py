"""The model of a run without a single weight: shapes alone, in torch's fake tensors on a pretended CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_api.training import Precision
from finetune_trainer.methods import METHODS
from finetune_trainer.tasks.base import Batch, TaskKind
from finetune_trainer.tasks.pretrained import shapes_only
from finetune_trainer.training.aiming import aim
from finetune_trainer.training.frozen_weights import narrow_type, narrowable
from finetune_trainer.training.recomputing import recompute

Tensors = dict[str, torch.Tensor]
FOUR_BITS = 0.516
"""Bytes of a weight in NF4 with scales that are quantized as well: 4.127 bits (Dettmers et al. 2023)."""


class _Guesses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers where a program asks for a value that is not there: equal, true, one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.equal.default, torch.ops.aten.is_nonzero.default):
            return True
        if func is torch.ops.aten._local_scalar_dense.default:
            kind = args[0].dtype
            return True if kind is torch.bool else 1.0 if kind.is_floating_point else 1
        return func(*args, **(kwargs or {}))


@contextmanager
def no_values() -> Iterator[FakeTensorMode]:
    """In this block tensors have shapes and no values."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, _Guesses():  # type: ignore[no-untyped-call]
        yield mode


def shaped_model(
    task: TaskKind, config: RunConfig, recomputes: bool, precision: str = Precision.FP32.value
) -> nn.Module:
    """The module that the run would train. To be called, and used, inside of `no_values`."""
    with unset_fake_temporarily(), shapes_only():
        model, new = task.load_model()
        module = METHODS[config.method.type](config.method).prepare(model, new)
        if config.method.type is MethodType.QLORA:
            _cast(four_bit_weights(module), torch.bfloat16)
        if (kind := narrow_type(config.method.type, precision)) is not None:
            _cast([weight for part in narrowable(module) for weight in part.parameters()], kind)
    _pretend(module)
    for part in module.modules():
        settings: Any = getattr(part, "config", None)
        if hasattr(settings, "apply_spec_augment"):
            settings.apply_spec_augment = False  # draws masks by the lengths of the sounds, which nobody has here
    aim(module, task.token_loss)
    if recomputes:
        recompute(module)
    return module.train()


def _cast(weights: Sequence[nn.Parameter], kind: torch.dtype) -> None:
    for weight in weights:
        weight.data = weight.data.to(kind)


def _pretend(model: nn.Module) -> None:
    """Tensors without any place become ones that pretend to be on the CPU; weights that are tied stay so."""
    made: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty_like(weight, device="cpu")
                made.setdefault(weight, nn.Parameter(empty, requires_grad=weight.requires_grad))
                module._parameters[name] = made[weight]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = made.setdefault(buffer, torch.empty_like(buffer, device="cpu"))


def four_bit_weights(module: nn.Module) -> list[nn.Parameter]:
    """What qlora keeps in four bits: the weights below its adapters."""
    return [part.weight for name, part in module.named_modules() if name.endswith(".base_layer")]


def weight_bytes(module: nn.Module, config: RunConfig) -> int:
    """Parameters and buffers, each once."""
    tensors = [*module.parameters(), *module.buffers()]
    everything = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if config.method.type is not MethodType.QLORA:
        return everything
    return everything - round(sum(weight.numel() * (2 - FOUR_BITS) for weight in four_bit_weights(module)))


def layer_bytes(module: nn.Module) -> int:
    """The largest of the layers that repeat, or all of a model without such layers."""
    layers = [layer for stack in module.modules() if isinstance(stack, nn.ModuleList) for layer in stack]
    sizes = [sum(weight.numel() * weight.element_size() for weight in layer.parameters()) for layer in layers]
    return max(sizes, default=sum(weight.numel() * 4 for weight in module.parameters()))


def shaped_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    """A real batch as one without values."""
    inputs: Tensors = {name: mode.from_tensor(tensor) for name, tensor in batch.inputs.items()}
    targets: Tensors = {name: mode.from_tensor(tensor) for name, tensor in batch.targets.items()}
    return Batch(inputs, targets, batch.count, batch.tokens, batch.notes)


@contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    """In this block attention and norms keep what they keep on a GPU, though the tensors pretend to be on a CPU.

    There fused attention has dropout, too, of which it keeps a seed; autocast computes norms and softmax in 32 bits.
    """
    attention: Callable[..., torch.Tensor] = functional.scaled_dot_product_attention
    norm: Callable[..., torch.Tensor] = functional.layer_norm
    softmax: Callable[..., torch.Tensor] = functional.softmax

    def fused(*arguments: Any, **named: Any) -> torch.Tensor:
        *first, _ = arguments if len(arguments) > 4 else (*arguments, None)
        return attention(*first, **{**named, "dropout_p": 0.0})

    def in_32_bits(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapped(values: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
            if not torch.is_autocast_enabled("cpu"):
                return compute(values, *arguments, **named)
            with torch.autocast("cpu", enabled=False):
                return compute(values.float(), *arguments, **named)

        return wrapped

    replaced = {
        "scaled_dot_product_attention": fused,
        "layer_norm": in_32_bits(norm),
        "softmax": in_32_bits(softmax),
    }
    originals = {"scaled_dot_product_attention": attention, "layer_norm": norm, "softmax": softmax}
    try:
        for name, function in replaced.items():
            setattr(functional, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(functional, name, function)
