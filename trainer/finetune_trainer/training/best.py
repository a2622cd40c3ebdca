"""The weights of the best evaluation: kept as soon as there is a better one, put back before the test rows are seen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from finetune_trainer.training.run import Run
from finetune_trainer.training.saving import best_steps, save_best
from finetune_trainer.training.selection import Standing, goal_of, standing_of, value_of
from finetune_trainer.training.state import read_weights

log = logging.getLogger(__name__)


def judge_evaluation(run: Run, metrics: Mapping[str, float] | None) -> None:
    """Keep the weights if the evaluation is one of the best, and say whether to stop.

    Only the main process has metrics; all end with the same standing. Raises ConfigError where the rows do not define
    what decides.
    """
    state, stopping = run.state, run.config.evaluation.early_stopping
    standing = standing_of(state.standing)
    if metrics is not None:
        standing = _with(run, standing, metrics)
    standing = run.world.broadcast(standing)
    state.standing = asdict(standing)
    state.best = dict(standing.best) if standing.best is not None else None
    state.stopped_early = standing.is_enough(stopping) and state.step < run.choices.total_steps
    if state.stopped_early and stopping is not None and state.best is not None:
        message = "stopped at step %d of %d: %d evaluations were not better than %s %.4g at step %d"
        best = (state.best["metric"], state.best["value"], state.best["step"])
        log.info(message, state.step, run.choices.total_steps, standing.stale, *best)
    if state.step in best_steps(run):
        save_best(run)


def _with(run: Run, standing: Standing, metrics: Mapping[str, float]) -> Standing:
    """The standing with this evaluation."""
    config = run.config
    goal, keep = goal_of(config, run.task.goal), config.checkpoint.keep_best
    value = value_of(metrics, goal, config)
    if value is None:
        return standing
    return standing.after(run.state.step, value, goal, keep, config.evaluation.early_stopping)


def restore_best(run: Run) -> None:
    """Give the model the weights that are tested and saved: those of the best evaluation, or the last ones.

    Their average where one is kept. The run cannot go on with them.
    """
    if run.average.tensors:
        run.average.swap()
    best, kept = run.state.best, run.config.checkpoint.keep_best
    if best is None:
        return
    path: Path | None = None
    if run.world.is_main and kept and best["step"] != run.state.step:
        path = run.store.best(best["step"])
    path = run.world.broadcast(path)
    if path is not None:
        read_weights(path, run.model)
        log.info("the weights of step %d, with the best %s, are back", best["step"], best["metric"])
    best["restored"] = path is not None or best["step"] == run.state.step
    if kept and run.world.is_main and not best["restored"]:
        log.warning("the best weights, of step %d, are not there any more; those of the last step stay", best["step"])
