"""Where a run stands: what a checkpoint holds, written and read back."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from finetune_trainer.files import write_json

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.pt"
RANKS = "ranks.pt"
STATE = "state.json"


@dataclass
class State:
    """Position in the data, and what was counted on the way there. Every process has the same."""

    step: int = 0
    evaluated_step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    log_bytes: int = 0


@dataclass
class Window:
    """What one process summed up since the last log point."""

    loss: torch.Tensor
    count: float = 0.0
    tokens: float = 0.0


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes: trained parameters, and buffers that are saved."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept = dict(model.named_parameters())
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in parameters or (name in kept and kept[name].requires_grad)
    }


def rank_state(window: Window) -> dict[str, Any]:
    """What differs between processes: random generators and the open window."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if window.loss.is_cuda else None,
        "python": random.getstate(),
        "numpy": _plain(numpy.random.get_state(legacy=False)),
        "loss": window.loss.cpu(),
        "count": window.count,
        "tokens": window.tokens,
    }


def write_state(
    folder: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: list[dict[str, Any]]
) -> None:
    """The whole state of a run as files in `folder`."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in trained_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    torch.save(ranks, folder / RANKS)
    write_json(folder / STATE, asdict(state))


def read_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put the weights and the optimizer back, and return where the run stood."""
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
    return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def read_rank(folder: Path, rank: int, window: Window) -> bool:
    """Put this process's random generators and window back; False if the checkpoint knows no such rank."""
    ranks = torch.load(folder / RANKS, map_location="cpu", weights_only=True)
    if rank >= len(ranks):
        return False
    own = ranks[rank]
    torch.set_rng_state(own["torch"])
    if own["cuda"] is not None and window.loss.is_cuda:
        torch.cuda.set_rng_state(own["cuda"])
    random.setstate(own["python"])
    numpy.random.set_state(_with_array(own["numpy"]))
    window.loss.copy_(own["loss"])
    window.count, window.tokens = own["count"], own["tokens"]
    return True


def _plain(generator: dict[str, Any]) -> dict[str, Any]:
    """NumPy's state without arrays, so that a checkpoint can be read without running what is in it."""
    inner = generator["state"]
    return generator | {"state": inner | {"key": inner["key"].tolist()}}


def _with_array(generator: dict[str, Any]) -> dict[str, Any]:
    inner = generator["state"]
    return generator | {"state": inner | {"key": numpy.array(inner["key"], dtype=numpy.uint32)}}
