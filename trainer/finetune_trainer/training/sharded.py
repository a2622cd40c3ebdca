"""A model in parts: with fsdp each process holds some rows of every weight, of its gradient and of its two means.

FSDP2 (`torch.distributed.fsdp.fully_shard`) gathers the weights of a layer just before it computes and drops them
after. So every forward and backward is something that all processes do together: one that has less to do than the
others takes part with rows that count for nothing, see `dealt` and `rounds`. What lies outside the layers, embeddings
and head, is gathered with the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.frozen import is_held
from finetune_trainer.sharding_limits import FIELD
from finetune_trainer.training.layers import Layers
from finetune_trainer.training.world import World

Item = TypeVar("Item")
DROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
"""Settings of models that leave out layers at random."""


def check_shardable(model: nn.Module) -> None:
    """Raise ConfigError for a model whose processes would not all compute the same layers, or cannot be cut."""
    if any(isinstance(module, _BatchNorm) and not is_held(module) for module in model.modules()):
        raise _refused("its batch norms compare whole rows")
    for part in model.modules():
        if not isinstance(part, PreTrainedModel):
            continue
        for name in DROPS:
            if getattr(part.config, name, 0.0):
                raise _refused(
                    f"it leaves out layers at random ({name} in its config.json), other ones in each process"
                )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise _refused(f"its weight {name} is a single number, which cannot be cut")
    Layers(model)


def _refused(why: str) -> ConfigError:
    return ConfigError("NotSupported", f"{FIELD}: fsdp cannot share this model: {why}", "use ddp")


def shard(model: nn.Module, world: World) -> None:
    """Cut every weight, layer by layer, then what lies outside them; each process goes on with its rows.

    On a GPU no more than one layer is there as a whole. Raises ConfigError if the model has no layers.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    for stack in Layers(model).stacks:
        for layer in model.get_submodule(stack.name).children():
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """In this block, without gradients, what lies outside the layers stays gathered: a model that writes reads it
    without a forward of the whole. After it the model has its rows again. Every process has to come.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def together(model: nn.Module, world: World) -> AbstractContextManager[None]:
    """Around a forward or a backward: of a model in parts every layer waits for the other processes."""
    return world.with_peers() if is_sharded(model) else nullcontext()


def dealt(batches: Sequence[Item], model: nn.Module, world: World) -> Iterator[tuple[Item | None, bool]]:
    """This process's batches in turn, as often as the others get one: where only they have one left, None, or of a
    model in parts the last of all, to take part with; False says that its outcome is nobody's.
    """
    for start in range(0, len(batches), world.size):
        if (place := start + world.rank) < len(batches):
            yield batches[place], True
        else:
            yield batches[-1] if is_sharded(model) else None, False


def rounds(model: nn.Module, own: int, world: World) -> int:
    """How many micro-batches of a step this process takes part in; it has `own` of them."""
    return max(1, world.max(own) if is_sharded(model) else own)


@contextmanager
def gradients_stay(model: nn.Module) -> Iterator[None]:
    """In this block a backward adds to this process's gradients, which are not shared yet."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def whole(tensor: torch.Tensor, world: World) -> torch.Tensor | None:
    """A tensor of all processes' rows in the main process's memory; None in the others. Every process has to come."""
    if isinstance(tensor, DTensor):
        with world.with_peers():
            tensor = tensor.full_tensor()
    return tensor.detach().to("cpu", copy=True) if world.is_main else None


def gathered_tensors(tensors: Mapping[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """The tensors, those in parts one by one as a whole in the main process's memory. Every process has to come."""
    wholes = {name: whole(tensor, world) if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in wholes.items() if tensor is not None}


def unite(model: nn.Module, world: World) -> None:
    """Make the main process's model an ordinary one on the host, weight by weight, to be saved. Of no use elsewhere.

    Every process has to come. Does nothing to a model that is not in parts.
    """
    if not is_sharded(model):
        return
    known: dict[int, nn.Parameter] = {}
    for module in list(model.modules()):
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in known:
                found = whole(parameter, world)
                held = parameter if found is None else nn.Parameter(found, parameter.requires_grad)
                known[id(parameter)] = known[id(held)] = held
            module._parameters[name] = known[id(parameter)]
        if isinstance(module, FSDPModule) and world.is_main:
            module.__class__ = type(module).__mro__[module._orig_cls_mro_index]
