"""One optimizer step: gradients of all processes, scaled, clipped, and taken in by the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from finetune_trainer.training.feeding import MicroBatch
from finetune_trainer.training.gradients import accumulate
from finetune_trainer.training.optimizer import scale_gradients, set_learning_rate
from finetune_trainer.training.run import Run
from finetune_trainer.training.schedule import learning_rate_factor


def optimize(run: Run, parts: Sequence[MicroBatch], count: float) -> torch.Tensor:
    """One optimizer step over all processes; returns the gradient's norm before clipping, on the device."""
    accumulate(run, parts)
    # DDP has divided the sum by the number of processes. A step of rows that count for nothing has no gradient.
    scale_gradients(run.parameters, run.world.size / (count or 1.0))
    run.unfreezing.drop_frozen(run.state.step)
    norm = nn.utils.clip_grad_norm_(run.parameters, run.config.training.max_grad_norm)
    set_learning_rate(run.optimizer, learning_rate(run))
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.average.update(run.state.step)
    return norm


def learning_rate(run: Run) -> float:
    """The learning rate of the next step."""
    factor = learning_rate_factor(
        run.state.step, run.choices.total_steps, run.choices.warmup_steps, run.config.training
    )
    return run.config.training.learning_rate * factor
