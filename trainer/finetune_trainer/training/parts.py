"""A checkpoint in parts: each process writes the rows that it holds, and any number of processes reads them again.

`part-R.safetensors` is what process R wrote. A tensor in it is called `weights/<weight>`, `average/<weight>` or
`optimizer/<weight>/<entry>`, and the file's metadata says at which row of the whole those of a cut tensor begin. What
all processes hold alike, such as counts of steps, is in the main process's file alone. Nothing is ever gathered: who
reads takes the rows that it is to hold from whichever files have them, also from a checkpoint that is not in parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from finetune_trainer.files import write_json

WEIGHTS_OF, AVERAGE_OF, OPTIMIZER_OF = "weights/", "average/", "optimizer/"
STARTS = "starts"
Tensors = Mapping[str, torch.Tensor]


def part_name(rank: int) -> str:
    return f"part-{rank}.safetensors"


def in_parts(folder: Path) -> bool:
    return (folder / part_name(0)).exists()


def first_row(tensor: torch.Tensor) -> int:
    """Where this process's rows of a tensor begin: FSDP2 cuts as `torch.chunk` does."""
    if not isinstance(tensor, DTensor) or not tensor.ndim:
        return 0
    rows, mesh = tensor.shape[0], tensor.device_mesh
    return min(mesh.get_local_rank() * -(-rows // mesh.size()), rows)


def own_rows(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, in the memory that training works with."""
    own: torch.Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.detach()


@dataclass(frozen=True)
class Part:
    """What one process contributes: its rows by name, where those of the cut tensors begin, and in the main process
    files of JSON by name.
    """

    rank: int
    tensors: Tensors
    starts: Mapping[str, int]
    documents: Mapping[str, Any]
    shared: ClassVar[bool] = True

    @property
    def bytes(self) -> int:
        """Of this process and of those beside it, which write at the same time."""
        return sum(tensor.nbytes for tensor in self.tensors.values()) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def copied(self) -> Part:
        """The same on the host, where training does not change it."""
        return replace(self, tensors={name: own.to("cpu", copy=True) for name, own in self.tensors.items()})

    def write(self, folder: Path) -> None:
        tensors = {name: own.contiguous() for name, own in self.tensors.items()}
        save_file(tensors, folder / part_name(self.rank), {STARTS: json.dumps(self.starts, sort_keys=True)})
        for name, document in self.documents.items():
            write_json(folder / name, document)


def part_of(weights: Tensors, average: Tensors, model: nn.Module, optimizer: torch.optim.Optimizer) -> Part:
    """What this process holds at this moment; its tensors are those that training goes on with."""
    named = {f"{WEIGHTS_OF}{name}": tensor for name, tensor in weights.items()}
    named |= {f"{AVERAGE_OF}{name}": tensor for name, tensor in average.items()}
    for name, parameter in _in_order(model, optimizer):
        entries = optimizer.state.get(parameter, {}).items()
        named |= {f"{OPTIMIZER_OF}{name}/{entry}": value for entry, value in entries if isinstance(value, torch.Tensor)}
    rank = torch.distributed.get_rank()
    cut = {name for name, tensor in named.items() if isinstance(tensor, DTensor)}
    kept = {name: own_rows(tensor) for name, tensor in named.items() if name in cut or rank == 0}
    kept = {name: own for name, own in kept.items() if own.numel() or name not in cut}
    return Part(rank, kept, {name: first_row(named[name]) for name in cut & kept.keys()}, {})


def read_parts(
    folder: Path, weights: Tensors, average: Tensors, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put a checkpoint in parts back, whoever wrote it, into as many processes as there are now."""
    with _Source(folder) as source:
        for names, prefix in ((weights, WEIGHTS_OF), (average, AVERAGE_OF)):
            for name, tensor in names.items():
                source.fill(f"{prefix}{name}", tensor)
        state = {
            number: source.entries(f"{OPTIMIZER_OF}{name}/", parameter)
            for number, (name, parameter) in enumerate(_in_order(model, optimizer))
        }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {number: own for number, own in state.items() if own}, "param_groups": groups})


def fill_from(file: Path, tensors: Tensors) -> None:
    """Put the rows that this process holds back from an ordinary file of weights; of those that are not there, none."""
    with safe_open(file, "pt") as opened:
        known = set(opened.keys())
        for name, tensor in tensors.items():
            if name in known:
                _copy(tensor, opened.get_slice(name), 0)


def cut_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's rows of a whole tensor that goes with a weight, as one that knows of the others'."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    own = torch.empty_like(own_rows(parameter), dtype=value.dtype)
    first = first_row(parameter)
    return _joined(own.copy_(value[first : first + len(own)]), parameter)


def whole_state_in_parts(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state that knows whole weights, as one of the rows that this process holds."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        number: {
            entry: cut_like(value, parameters[number]) if isinstance(value, torch.Tensor) else value
            for entry, value in entries.items()
        }
        for number, entries in state["state"].items()
    }
    return {**state, "state": cut}


def _in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """The optimizer's weights in its order, with their names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(names[id(own)], own) for group in optimizer.param_groups for own in group["params"]]


def _joined(own: torch.Tensor, like: DTensor) -> DTensor:
    return DTensor.from_local(
        own, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _copy(tensor: torch.Tensor, rows: Any, start: int) -> None:
    """Copy those of `rows`, which begin at row `start` of the whole, that this process holds of `tensor`."""
    own, first = own_rows(tensor), first_row(tensor)
    if not tensor.ndim:
        own.copy_(rows[...])
        return
    begin, end = max(first, start), min(first + len(own), start + rows.get_shape()[0])
    if begin < end:
        own[begin - first : end - first].copy_(rows[begin - start : end - start])


class _Source:
    """All files of a checkpoint in parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._found: dict[str, list[tuple[int, Any]]] = {}

    def __enter__(self) -> _Source:
        for path in sorted(self._folder.glob(part_name(0).replace("0", "*"))):
            opened = self._stack.enter_context(safe_open(path, "pt"))
            starts = json.loads(opened.metadata()[STARTS])
            for name in opened.keys():  # noqa: SIM118
                self._found.setdefault(name, []).append((starts.get(name, 0), opened.get_slice(name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Put the rows that this process holds of a tensor back."""
        for start, rows in self._found.get(name, ()):
            _copy(tensor, rows, start)

    def entries(self, prefix: str, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the optimizer keeps of a weight, cut as that is."""
        return {name.removeprefix(prefix): self._like(name, parameter) for name in self._with(prefix)}

    def _with(self, prefix: str) -> Iterator[str]:
        return (name for name in self._found if name.startswith(prefix))

    def _like(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        _, rows = self._found[name][0]
        if not rows.get_shape():
            value: torch.Tensor = rows[...]
            return value
        dtype = rows[:0].dtype
        own = torch.empty_like(own_rows(parameter), dtype=dtype)
        found = _joined(own, parameter) if isinstance(parameter, DTensor) else own
        self.fill(name, found)
        return found
