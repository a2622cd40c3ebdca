"""How many steps a run has, how long its warm-up is, and the learning rate at a step: pure arithmetic."""

from __future__ import annotations

import math

from finetune_api.training import Scheduler, Training


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


def learning_rate_factor(step: int, total: int, warmup: int, kind: Scheduler) -> float:
    """Share of the peak learning rate for the step that follows `step` done ones, in (0, 1].

    Warm-up rises in equal parts to 1; the decay would reach 0 after the last step.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if kind is Scheduler.LINEAR:
        return max(0.0, 1.0 - done)
    if kind is Scheduler.COSINE:
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))
    return 1.0


def log_interval(total: int) -> int:
    """Steps between two log points: about a hundred in a run, since each reads values back from the device."""
    return min(50, max(1, total // 100))
