"""The processes of a run and what they agree on. One process is the same code path with nobody to ask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from finetune_trainer.errors import Unavailable

TIMEOUT = timedelta(minutes=10)
"""How long a collective operation waits for a peer."""


@dataclass(frozen=True)
class World:
    """This process among the others. What is said here is said over host memory, never through the device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes in the order of their ranks; None except in the main one."""
        if self.size == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.size if self.is_main else None
        distributed.gather_object(value, gathered)
        return gathered

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, in each of them."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """The main process's value."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def close(self) -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def open_world(use_gpu: bool) -> World:
    """Meet the other processes as RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say.

    Raises Unavailable if they do not come within the timeout.
    """
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if size > 1:
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout=TIMEOUT)
        except distributed.DistError as error:
            message = f"the {size} processes did not meet at {os.environ['MASTER_ADDR']}: {error}"
            raise Unavailable("PeerMissing", message, "see whether all pods of the attempt are running") from error
    else:
        # accelerate takes its presence for a distributed run and would wrap the model for a group of one.
        del os.environ["LOCAL_RANK"]
    return World(rank, size, device)
