"""What one process needs, part by part, and whether a node has it: pure. All numbers are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.training import Optimizer
from finetune_trainer.optimizer_bytes import state_bytes

MIB = 1 << 20
GIB = 1 << 30
CPU_LIBRARIES = 620 * MIB
"""A rank on a CPU before it has a model: Python, torch, transformers and what they load. docs/memory.md."""
GPU_LIBRARIES = 700 * MIB
"""On the GPU: CUDA's context and the workspaces of its matrix products. Assumed."""
GPU_HOST = 2500 * MIB
"""In the host's memory beside a GPU: the libraries with CUDA's. Assumed."""


@dataclass(frozen=True)
class Step:
    """What a model needs for one step, as the simulation found it.

    `weights` are parameters and buffers, `trained` the shapes of the trained weights, in 32 bits. `peak` is the most
    that lies beside the weights in forward and backward, gradients included, `evaluated` the same while it evaluates.
    `layer` are the weights of the largest of the layers that repeat, `parameters` is a number.
    """

    parameters: int
    weights: int
    trained: tuple[tuple[int, ...], ...]
    peak: int
    evaluated: int
    layer: int


@dataclass(frozen=True)
class Sharing:
    """How many processes there are, on how many nodes, and whether each has only a part of the model (fsdp)."""

    processes: int
    nodes: int = 1
    sharded: bool = False

    @property
    def per_node(self) -> int:
        return -(-self.processes // self.nodes)


@dataclass(frozen=True)
class Footprint:
    """What one process needs at most while it trains: on its GPU, or of the host's memory where it has none."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    exchange: int
    libraries: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def to_dict(self) -> dict[str, int]:
        return {**vars(self), "total": self.total}


def footprint(step: Step, sharing: Sharing, optimizer: Optimizer, averaged: bool, libraries: int) -> Footprint:
    """A step's needs for one of the processes that share it.

    `exchange` is what ddp sums gradients in, a copy of them; with fsdp, the layers that are put together, two at a
    time, and the gradient of one.
    """
    count = sum(_count(shape) for shape in step.trained)
    gradients, state = 4 * count, sum(state_bytes(optimizer, shape) for shape in step.trained)
    # Memory is at its most in forward and backward, while the gradients grow, or when the optimizer has all of them.
    activations = max(step.peak - gradients, step.evaluated - gradients, 0)
    parts = sharing.processes if sharing.sharded else 1
    summed = gradients if sharing.processes > 1 else 0
    return Footprint(
        weights=-(-step.weights // parts),
        gradients=-(-gradients // parts),
        optimizer=-(-state // parts),
        average=-(-gradients // parts) if averaged else 0,
        activations=activations,
        exchange=3 * step.layer if sharing.sharded else summed,
        libraries=libraries,
    )


def saved_bytes(step: Step, optimizer: Optimizer, averaged: bool) -> int:
    """A checkpoint: the trained weights, what the optimizer keeps of them, and their average."""
    weights = 4 * sum(_count(shape) for shape in step.trained)
    return weights * (2 if averaged else 1) + sum(state_bytes(optimizer, shape) for shape in step.trained)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


@dataclass(frozen=True)
class Room:
    """What there is, and how it is known: `device` of each GPU, `host` of a node; None where nobody knows."""

    device: int | None = None
    host: int | None = None
    told_by: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Need:
    """What a run takes of each GPU (None without), and of the memory of a node."""

    device: int | None
    host: int

    def fits(self, room: Room) -> bool:
        """Whether there is room, as far as that is known."""
        pairs = ((self.device, room.device), (self.host, room.host))
        return all(need is None or there is None or need <= there for need, there in pairs)


def need_of(own: Footprint, sharing: Sharing, on_gpu: bool) -> Need:
    """A run's need, without a background save, which is put off where memory is short."""
    if not on_gpu:
        return Need(None, own.total * sharing.per_node)
    return Need(own.total, GPU_HOST * sharing.per_node)
