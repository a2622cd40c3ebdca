"""How the processes share the model.

ddp: each has a replica, and gradients are summed over all. fsdp: each has some rows of every weight (see `sharded`).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedDataParallelKwargs  # type: ignore[import-untyped]
from torch import nn

from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.record import DDP, FSDP, Choices
from finetune_trainer.sharding_limits import FIELD, unsharded
from finetune_trainer.training.sharded import check_shardable, shard
from finetune_trainer.training.world import World

log = logging.getLogger(__name__)
AUTO = "auto"
FULL = 0.8
"""Share of a GPU's memory above which weights, gradients and optimizer leave too little for the rest."""
SPARE = 0.1
"""Share of a GPU's memory that gradients of whole weights may take while a step adds up."""
GRADIENT_BYTES = 4


def open_accelerator(world: World) -> Accelerator:
    """What prepares the model for this run's processes; its precision is `precision.compute_in`'s."""
    # With unused parameters allowed DDP never regroups its buckets, so a resumed run sums in the same order.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(
        cpu=world.device.type == "cpu",
        mixed_precision="no",
        kwargs_handlers=[ddp],
    )


def choose_strategy(config: RunConfig, model: nn.Module, held: int, world: World) -> str:
    """ddp or fsdp; `auto` is fsdp where a replica, of which `held` bytes stay, does not fit into a GPU.

    Raises ConfigError if fsdp cannot share the model, and has to.
    """
    wanted = config.parallelism.strategy
    if wanted == FSDP:
        check_shardable(model)
        return FSDP
    if wanted == DDP or world.size == 1 or not _is_too_large(held, world.device):
        return DDP
    return FSDP if _can_be_sharded(config, model) else DDP


def asked_for(kept: Choices, config: RunConfig, model: nn.Module) -> Choices:
    """The choices with the strategy that the manifest names now: attempts may share the model in different ways."""
    wanted = config.parallelism.strategy
    if wanted in (kept.strategy, AUTO):
        return kept
    if wanted == FSDP:
        check_shardable(model)
    log.warning("%s: %s before, %s now; the result is as good, but not to the last bit", FIELD, kept.strategy, wanted)
    return replace(kept, strategy=wanted)


def _can_be_sharded(config: RunConfig, model: nn.Module) -> bool:
    try:
        check_shardable(model)
    except ConfigError:
        return False
    return unsharded(config) is None


def _is_too_large(held: int, device: torch.device) -> bool:
    return device.type == "cuda" and held > FULL * torch.cuda.get_device_properties(device).total_memory


def adds_up_whole(model: nn.Module, device: torch.device) -> bool:
    """Whether with fsdp the micro-batches of a step may add up gradients of whole weights, to be shared once."""
    if device.type != "cuda":
        return True
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained * GRADIENT_BYTES <= SPARE * torch.cuda.get_device_properties(device).total_memory


def share(model: nn.Module, accelerator: Accelerator, choices: Choices, world: World) -> nn.Module:
    """What forward and backward go through, on this process's device. With fsdp it is the model itself, in parts."""
    if choices.strategy != FSDP or world.size == 1:
        if choices.strategy == FSDP:
            log.info("%s: one process has all of the model; fsdp is the same as ddp", FIELD)
        replica: nn.Module = accelerator.prepare_model(model)
        return replica
    # Not accelerate's own grouping: it would keep the head apart from the forward that its loss is computed in.
    prepared: nn.Module = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
    shard(prepared, world)
    return prepared
