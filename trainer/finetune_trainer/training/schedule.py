"""How many steps a run has, how long its warm-up is, and the learning rate at a step: pure arithmetic."""

from __future__ import annotations

import math

from finetune_api.training import GradualUnfreezing, Scheduler, Training

INVERSE_SQRT_STEPS = 10_000
"""Time scale of `inverse_sqrt` without warm-up, as in transformers."""


def steps_per_epoch(rows: int, batch: int) -> int:
    """Optimizer steps in one pass; the last may have fewer rows."""
    return math.ceil(rows / batch)


def total_steps(training: Training, rows: int) -> int:
    """Optimizer steps in the whole run."""
    if training.max_steps is not None:
        return training.max_steps
    return max(1, math.ceil(training.num_train_epochs * steps_per_epoch(rows, training.train_batch_size)))


def warmup_steps(training: Training, total: int) -> int:
    if training.warmup_steps is not None:
        return training.warmup_steps
    return math.ceil((training.warmup_ratio or 0.0) * total)


def learning_rate_factor(step: int, total: int, warmup: int, training: Training) -> float:
    """Share of the peak learning rate for the step that follows `step` done ones, in [0, 1].

    Warm-up rises in equal parts to 1. What falls to zero would be there after the last step; `inverse_sqrt` does not
    know where the end is.
    """
    if step < warmup:
        return (step + 1) / warmup
    left = max(0.0, 1.0 - (step - warmup) / max(1, total - warmup))
    match training.lr_scheduler_type:
        case Scheduler.LINEAR:
            return left
        case Scheduler.COSINE:
            return 0.5 * (1.0 - math.cos(math.pi * left))
        case Scheduler.POLYNOMIAL:
            return math.pow(left, training.lr_scheduler_power)
        case Scheduler.INVERSE_SQRT:
            scale = warmup or INVERSE_SQRT_STEPS
            return math.sqrt(scale / (scale + step - warmup))
        case Scheduler.CONSTANT:
            return 1.0


def unfreezing_interval(unfreezing: GradualUnfreezing, epoch: int) -> int:
    """Steps until the next layer joins, of `epoch` steps in an epoch."""
    if unfreezing.every_steps is not None:
        return unfreezing.every_steps
    return max(1, math.ceil((unfreezing.every_epochs or 1.0) * epoch))


def log_interval(total: int) -> int:
    """Steps between two log points: about a hundred in a run, since each reads values back from the device."""
    return min(50, max(1, total // 100))
