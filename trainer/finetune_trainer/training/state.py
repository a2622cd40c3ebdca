"""Where a run stands: what a checkpoint holds, written and read back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from finetune_trainer.files import write_json
from finetune_trainer.training.parts import Part, fill_from, in_parts, part_of, read_parts, whole_state_in_parts
from finetune_trainer.training.sharded import is_sharded

WEIGHTS = "model.safetensors"
AVERAGE = "average.safetensors"
OPTIMIZER = "optimizer.pt"
STATE = "state.json"


@dataclass
class State:
    """Position in the data, and what was counted on the way there.

    `scaler` is that of fp16 (see `scaling`), empty elsewhere.
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
    scaler: dict[str, float] = field(default_factory=dict)
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
    if is_sharded(model):
        fill_from(folder / WEIGHTS, trained_tensors(model))
    else:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=False)


@dataclass(frozen=True)
class WeightFile:
    """Weights that become one file, by name: the best ones of a run."""

    tensors: Mapping[str, torch.Tensor]
    shared: ClassVar[bool] = False

    @property
    def bytes(self) -> int:
        return _bytes_of(self.tensors)

    def copied(self) -> WeightFile:
        """The same on the host, where training does not change them."""
        return WeightFile(_values_on_host(self.tensors))

    def write(self, folder: Path) -> None:
        write_weights(folder, self.tensors)


@dataclass(frozen=True)
class WholeState:
    """Everything that a checkpoint holds, where one process has it all. `average` is empty where none is kept."""

    weights: Mapping[str, torch.Tensor]
    average: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    state: Mapping[str, Any]
    shared: ClassVar[bool] = False

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return _bytes_of(self.weights) + _bytes_of(self.average) + _bytes_of(self.optimizer)

    def copied(self) -> WholeState:
        """The same on the host, where training does not change it: the files have the same bytes."""
        weights, average = _values_on_host(self.weights), _values_on_host(self.average)
        return WholeState(weights, average, on_host(self.optimizer), self.state)

    def write(self, folder: Path) -> None:
        """As files; the names are those that `read_state` looks for."""
        write_weights(folder, self.weights)
        if self.average:
            write_weights(folder, self.average, AVERAGE)
        with (folder / OPTIMIZER).open("wb") as file:  # torch hides why it could not write to a path
            torch.save(self.optimizer, file)
        write_json(folder / STATE, self.state)


def whole_state(
    state: State, model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, torch.Tensor]
) -> WholeState | Part:
    """The state of a run at this moment, or this process's part; its tensors are those that training goes on with."""
    if is_sharded(model):
        part = part_of(trained_tensors(model), average, model, optimizer)
        return replace(part, documents={STATE: asdict(state)} if part.rank == 0 else {})
    return WholeState(trained_tensors(model), average, optimizer.state_dict(), asdict(state))


def _values_on_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies, each in one piece: a file of weights tells nothing else of them."""
    return {name: torch.empty(own.shape, dtype=own.dtype).copy_(own.detach()) for name, own in tensors.items()}


def _bytes_of(value: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors_in(value))


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)


def on_host(value: Any, copies: dict[int, Any] | None = None) -> Any:
    """A copy of a nest of containers and of the tensors in it, on the host.

    What was one object, or lay in one storage, is so again: `torch.save` writes the same bytes.
    """
    copies = {} if copies is None else copies
    if id(value) not in copies:
        copies[id(value)] = _copied(value, copies)
    return copies[id(value)]


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return _tensor_on_host(value, copies)
    if isinstance(value, dict):
        copied = copy(value)
        copied.update({name: on_host(item, copies) for name, item in value.items()})
        return copied
    if isinstance(value, list):
        return [on_host(item, copies) for item in value]
    if isinstance(value, tuple) and any(True for _ in _tensors_in(value)):
        return tuple(on_host(item, copies) for item in value)
    return value


def _tensor_on_host(tensor: torch.Tensor, copies: dict[int, Any]) -> torch.Tensor:
    """`copies` has the copies of storages by their addresses, negative where those of objects are positive."""
    if type(tensor) not in (torch.Tensor, nn.Parameter):  # a quantized one, say, which knows itself how it is copied
        return tensor.detach().to("cpu", copy=True)
    storage = tensor.untyped_storage()
    key = -1 - storage.data_ptr() if storage.nbytes() else -1
    if key not in copies:
        whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        copies[key] = whole.to("cpu", copy=True).untyped_storage()
    found = torch.empty(0, dtype=tensor.dtype)
    return found.set_(copies[key], tensor.storage_offset(), tensor.size(), tensor.stride())


def write_state(
    folder: Path,
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, torch.Tensor],
) -> None:
    """The whole state of a run as files in `folder`; `average` is empty where no average is kept."""
    whole_state(state, model, optimizer, average).write(folder)


def read_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, torch.Tensor]
) -> State:
    """Put the weights, their average and the optimizer back, and return where the run stood."""
    if in_parts(folder):
        read_parts(folder, trained_tensors(model), average, model, optimizer)
    else:
        read_weights(folder, model)
        if average:
            fill_from(folder / AVERAGE, average)
        known = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(whole_state_in_parts(known, optimizer) if is_sharded(model) else known)
    return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def seed_everything(seed: int) -> None:
    """Seed every generator that a library may draw from, on the host and on the devices in use.

    Each micro-batch is drawn for by a seed of its own, and `torch.manual_seed` takes half a millisecond: for devices
    that nobody uses yet it writes down who asked.
    """
    random.seed(seed)
    numpy.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
