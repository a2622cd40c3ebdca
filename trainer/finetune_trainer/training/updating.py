"""One optimizer step: gradients of all processes, scaled, clipped, and taken in by the weights.

A gradient arrives as a sum over rows. What it is divided by, and what it is clipped to, make one factor, which the
fused optimizer applies while it reads the gradient; for the others there is one multiplication.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from finetune_trainer.training.embedding import Table
from finetune_trainer.training.feeding import MicroBatch
from finetune_trainer.training.gradients import accumulate
from finetune_trainer.training.optimizer import set_learning_rate
from finetune_trainer.training.precision import kept_casts
from finetune_trainer.training.run import Run
from finetune_trainer.training.schedule import learning_rate_factor

EPSILON = 1e-6
"""What clip_grad_norm_ of torch adds to the norm before it divides by it."""


def optimize(run: Run, parts: Sequence[MicroBatch], count: float) -> torch.Tensor:
    """One optimizer step over all processes; returns the gradient's norm before clipping, on the device."""
    with kept_casts(run.model):
        accumulate(run, parts)
    # DDP has divided the sum by the number of processes. A step of rows that count for nothing has no gradient.
    return update(run, run.world.size / (count or 1.0))


def update(run: Run, factor: float) -> torch.Tensor:
    """Take in the gradients times `factor`; returns their norm before clipping, on the device."""
    run.unfreezing.drop_frozen(run.state.step)
    run.scaler.unscale(run.optimizer)
    norm = total_norm(run.parameters, run.tables) * factor
    clipped = factor * clipping_factor(norm, run.config.training.max_grad_norm)
    scale_gradients(run.optimizer, run.parameters, run.tables, clipped)
    set_learning_rate(run.optimizer, learning_rate(run))
    norm = run.scaler.step(run.optimizer, norm)
    run.optimizer.zero_grad()
    for table in run.tables:
        table.clear()
    run.average.update(run.state.step)
    return norm


def total_norm(parameters: Sequence[nn.Parameter], tables: Sequence[Table] = ()) -> torch.Tensor:
    """Euclidean norm of all gradients together; of a large table only the rows that have one are read."""
    parts = {table.weight: table.part() for table in tables if table.is_sparse}
    norm = nn.utils.get_total_norm([parts.get(item, item.grad) for item in parameters if item.grad is not None])
    # Of sharded gradients every process has a part of the norm.
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clipping_factor(norm: torch.Tensor, most: float) -> torch.Tensor:
    """What brings a gradient of this norm down to `most`, or 1, as clip_grad_norm_ of torch has it."""
    return (most / (norm + EPSILON)).clamp(max=1.0)


def scale_gradients(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    tables: Sequence[Table],
    factor: torch.Tensor,
) -> None:
    """Multiply every gradient by `factor`, or have a fused optimizer do so, which reads all of them anyway."""
    if optimizer.defaults.get("fused") and not tables:
        optimizer.grad_scale = factor.reciprocal()  # type: ignore[attr-defined]
        return
    sparse = {table.weight: table for table in tables if table.is_sparse}
    for table in sparse.values():
        table.scale(factor)
    if rest := [item.grad for item in parameters if item.grad is not None and item not in sparse]:
        torch._foreach_mul_(rest, factor)


def learning_rate(run: Run) -> float:
    """The learning rate of the next step."""
    factor = learning_rate_factor(
        run.state.step, run.choices.total_steps, run.choices.warmup_steps, run.config.training
    )
    return run.config.training.learning_rate * factor
