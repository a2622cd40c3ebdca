"""The processes of a run and what they agree on. One process is the same code path with nobody to ask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from finetune_trainer import heartbeat
from finetune_trainer.errors import Unavailable

MEETING_SECONDS = 600
"""How long processes wait at least until all have come: those of other pods may have more to download."""
USUAL_HANG_SECONDS = 1800
PATIENCE = 3
"""A collective operation waits so many times as long as a rank may stand still: who hangs is found before."""


@dataclass(frozen=True)
class World:
    """This process among the others. What is said here is said over host memory, never through the device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def with_peers(self) -> AbstractContextManager[None]:
        """In this block the processes do something together: who stands still here may only be waiting."""
        return heartbeat.waiting() if self.size > 1 else nullcontext()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        with self.with_peers():
            distributed.all_reduce(tensor)
        return tensor.tolist()

    def max(self, value: int) -> int:
        """The largest of all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        with self.with_peers():
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor)

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes in the order of their ranks; None except in the main one."""
        if self.size == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.size if self.is_main else None
        with self.with_peers():
            distributed.gather_object(value, gathered)
        return gathered

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, in each of them."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with self.with_peers():
            distributed.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """The main process's value."""
        if self.size == 1:
            return value
        box = [value]
        with self.with_peers():
            distributed.broadcast_object_list(box)
        return box[0]

    def close(self) -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def open_world(use_gpu: bool, hang_seconds: int | None = None) -> World:
    """Meet the other processes as RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say.

    `hang_seconds` is how long one may stand still, None if nobody looks. Raises Unavailable if they do not come.
    """
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if size > 1:
        _meet("cpu:gloo,cuda:nccl" if use_gpu else "gloo", rank, size, hang_seconds or USUAL_HANG_SECONDS)
    else:
        # accelerate takes its presence for a distributed run and would wrap the model for a group of one.
        del os.environ["LOCAL_RANK"]
    return World(rank, size, device)


def _meet(backend: str, rank: int, size: int, hang_seconds: int) -> None:
    patience = timedelta(seconds=max(MEETING_SECONDS, hang_seconds))
    try:
        with heartbeat.waiting():
            store, _, _ = next(rendezvous("env://", rank, size, timeout=patience))
            timeout = timedelta(seconds=max(MEETING_SECONDS, PATIENCE * hang_seconds))
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except distributed.DistError as error:
        message = f"the {size} processes did not meet at {os.environ['MASTER_ADDR']}: {error}"
        raise Unavailable("PeerMissing", message, "see whether all pods of the attempt are running") from error
