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
STATE = "state.json"


@dataclass
class State:
    """Position in the data, and what was counted on the way there.

    The window is what all processes summed up since the last log point.
    """

    step: int = 0
    evaluated_step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    log_bytes: int = 0
    window_loss: float = 0.0
    window_count: float = 0.0
    window_tokens: float = 0.0


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes: trained parameters, and buffers that are saved."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept = dict(model.named_parameters())
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in parameters or (name in kept and kept[name].requires_grad)
    }


def write_state(folder: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The whole state of a run as files in `folder`."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in trained_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    write_json(folder / STATE, asdict(state))


def read_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put the weights and the optimizer back, and return where the run stood."""
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
    return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def seed_everything(seed: int) -> None:
    """Seed every generator that a library may draw from, on the host and on the device."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
