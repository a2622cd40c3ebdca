"""A step without numbers: the real model and the real loss on tensors that have shapes only, and what would lie in
memory meanwhile.

Every storage is counted once, from the operation that makes it until nobody has it any more, so that what backward
keeps, what it makes on its way and what recomputing saves come out as they are, whatever the architecture.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import convert_to_fp32  # type: ignore[import-untyped]
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from finetune_api.run import RunConfig
from finetune_api.training import Precision
from finetune_trainer.planning.footprint import Step
from finetune_trainer.planning.shapes import (
    kernels_of_a_gpu,
    layer_bytes,
    no_values,
    shaped_batch,
    shaped_model,
    weight_bytes,
)
from finetune_trainer.tasks.base import Batch, TaskKind
from finetune_trainer.training.aiming import outputs_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What a step's memory depends on beside the model. `accumulates`: gradients are there before the micro-batch."""

    config: RunConfig
    precision: str
    recomputes: bool
    on_gpu: bool = False
    accumulates: bool = False


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that there are: `now`, and at most, `peak`."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known = {id(tensor.untyped_storage()): tensor.untyped_storage() for tensor in known}
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count the tensor's storage until it is gone, unless it is counted, or was there before."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen or key in self._known:
            return

        def gone(_: object) -> None:
            self.now -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, torch.Tensor):
                self.add(item)
        return result


def simulate(task: TaskKind, setting: Setting, batch: Batch, evaluated: Batch) -> Step:
    """What one process needs for the micro-batch `batch`, and to evaluate `evaluated`."""
    with ExitStack() as stack:
        if setting.on_gpu:
            stack.enter_context(kernels_of_a_gpu())
        mode = stack.enter_context(no_values())
        module = shaped_model(task, setting.config, setting.recomputes, setting.precision)
        tensors = [*module.parameters(), *module.buffers()]
        peak = _trained(task, module, setting, shaped_batch(batch, mode), tensors)
        return Step(
            parameters=sum(weight.numel() for weight in module.parameters()),
            weights=weight_bytes(module, setting.config),
            trained=tuple(tuple(weight.shape) for weight in module.parameters() if weight.requires_grad),
            peak=peak,
            evaluated=_evaluated(task, module, setting, shaped_batch(evaluated, mode), tensors),
            layer=layer_bytes(module),
        )


def _trained(task: TaskKind, module: nn.Module, setting: Setting, batch: Batch, known: Sequence[torch.Tensor]) -> int:
    """The most bytes in forward and backward, beside the weights; gradients are dropped again."""
    with Live(known) as live:
        for tensor in (*batch.inputs.values(), *batch.targets.values()):
            live.add(tensor)
        if setting.accumulates:
            for weight in module.parameters():
                weight.grad = torch.empty_like(weight) if weight.requires_grad else None
        _loss(task, _outputs(module, setting, batch), batch).backward()  # type: ignore[no-untyped-call]
    module.zero_grad()
    peak: int = live.peak
    return peak


def _evaluated(task: TaskKind, module: nn.Module, setting: Setting, batch: Batch, known: Sequence[torch.Tensor]) -> int:
    module.eval()
    with torch.no_grad(), Live(known) as live:
        _loss(task, _outputs(module, setting, batch), batch)
    peak: int = live.peak
    return peak


def _outputs(module: nn.Module, setting: Setting, batch: Batch) -> Any:
    """As accelerate computes them: in mixed precision inside of the model, in 32 bits outside."""
    half = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP8: torch.bfloat16}
    dtype = half.get(Precision(setting.precision))
    with torch.autocast("cpu", dtype=dtype) if dtype is not None else nullcontext():
        outputs = outputs_of(module, batch)
    return outputs if dtype is None else convert_to_fp32(outputs)


def _loss(task: TaskKind, outputs: Any, batch: Batch) -> torch.Tensor:
    """The task's loss; where it needs to know values, one over all outputs that takes as much."""
    if task.whole_batch:
        return sum((tensor.float().sum() for tensor in task.embed(outputs)), torch.zeros(()))
    try:
        return task.loss(outputs, batch)
    except Exception as error:  # whatever a loss does with values that are not there
        log.debug("the loss has no shape: %s", error)
        made = [item for item in tree_iter(dict(outputs)) if isinstance(item, torch.Tensor) and item.requires_grad]
        return sum((item.float().log_softmax(-1).sum() for item in made), torch.zeros(()))
