"""How the processes share the model: each has a replica, and gradients are summed over all."""

from __future__ import annotations

from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedDataParallelKwargs  # type: ignore[import-untyped]

from finetune_trainer.training.world import World


def open_accelerator(world: World) -> Accelerator:
    """What prepares the model for this run's processes; its precision is `precision.compute_in`'s."""
    # With unused parameters allowed DDP never regroups its buckets, so a resumed run sums in the same order.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(
        cpu=world.device.type == "cpu",
        mixed_precision="no",
        kwargs_handlers=[ddp],
    )
