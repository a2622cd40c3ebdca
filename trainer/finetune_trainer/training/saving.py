"""A checkpoint of the whole run, as it stands between two steps."""

from __future__ import annotations

import time

from finetune_trainer.report.snapshot import Activity
from finetune_trainer.training.best import best_steps
from finetune_trainer.training.run import Run
from finetune_trainer.training.state import write_state
from finetune_trainer.usage import energy_of


def save(run: Run) -> None:
    """Publish a checkpoint of this step; every process takes part."""
    run.reporter.doing(Activity.SAVING)
    state = run.state
    state.seconds = run.earlier_seconds + time.monotonic() - run.first_time
    state.energy = energy_of(run)
    collect_loss(run)
    if run.world.is_main:
        state.log_bytes = run.reporter.log_bytes
        path = run.store.publish(
            state.step,
            lambda folder: write_state(folder, state, run.model, run.optimizer, run.average.tensors),
            best_steps(run),
        )
        uri = f"{run.config.checkpoint_uri or run.config.checkpoint_folder}/{path.name}"
        run.reporter.update(checkpoint_step=state.step, checkpoint_uri=uri, checkpoint_time=time.time())
    run.saves.saved(state.step, time.monotonic())
    run.reporter.doing(Activity.TRAINING)


def collect_loss(run: Run) -> None:
    """Move what all processes summed up on their devices into the state."""
    run.state.window_loss += run.world.sum([run.loss.item()])[0]
    run.loss.zero_()
