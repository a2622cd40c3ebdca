"""Where a run stands: what a checkpoint holds, written and read back."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from finetune_trainer.files import write_json

WEIGHTS = "model.safetensors"
AVERAGE = "average.safetensors"
OPTIMIZER = "optimizer.pt"
STATE = "state.json"


@dataclass
class State:
    """Position in the data, and what was counted on the way there.

    `standing` has the best evaluations and how long ago they were (see `selection.Standing`), `before` the metrics of
    what the model could do before training, `run_id` is what trackers know the run by.
    The window is what all processes summed up since the last log point.
    """

    step: int = 0
    evaluated_step: int = 0
    stopped_early: bool = False
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    energy: dict[str, float] = field(default_factory=dict)
    run_id: str = ""
    standing: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    before: dict[str, float] = field(default_factory=dict)
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


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], name: str = WEIGHTS) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / name)


def read_weights(folder: Path, model: nn.Module) -> None:
    """Put the weights of a checkpoint, or of an evaluation's, back."""
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)


def write_state(
    folder: Path,
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, torch.Tensor],
) -> None:
    """The whole state of a run as files in `folder`; `average` is empty where no average is kept."""
    write_weights(folder, trained_tensors(model))
    if average:
        write_weights(folder, average, AVERAGE)
    with (folder / OPTIMIZER).open("wb") as file:  # torch hides why it could not write to a path
        torch.save(optimizer.state_dict(), file)
    write_json(folder / STATE, asdict(state))


def read_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, torch.Tensor]
) -> State:
    """Put the weights, their average and the optimizer back, and return where the run stood."""
    read_weights(folder, model)
    for name, tensor in (load_file(folder / AVERAGE) if average else {}).items():
        average[name].copy_(tensor)
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
    return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def seed_everything(seed: int) -> None:
    """Seed every generator that a library may draw from, on the host and on the device."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
