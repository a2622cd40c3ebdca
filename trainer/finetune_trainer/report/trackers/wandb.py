"""Weights & Biases: its server, or its files in the run's folder to be synced later."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.files import WANDB, remove
from finetune_trainer.report.snapshot import Ending
from finetune_trainer.report.trackers.adapter import Point, Tracked

if TYPE_CHECKING:
    import wandb

PATIENCE = 30.0
"""Seconds for the server to answer when a run begins."""
MOST_OF_A_TAG = 64


class WeightsAndBiases:
    """One run by our id. `mode` is online, or offline, where each attempt writes the whole run anew."""

    _run: wandb.Run

    def __init__(self, project: str, entity: str | None, mode: str) -> None:
        self.project = project
        self.entity = entity
        self.mode = mode
        self._first_step = 0

    def open(self, run: Tracked) -> bool:
        import wandb

        online = self.mode == "online"
        if not online:
            for former in (run.folder / WANDB).glob(f"offline-run-*-{run.id}"):
                remove(former)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=run.id,
            name=run.name,
            dir=str(run.folder),
            mode=self.mode,  # type: ignore[arg-type]
            resume="allow" if online else None,
            config=dict(run.parameters),
            tags=[f"{name}:{value}"[:MOST_OF_A_TAG] for name, value in run.tags.items()],
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=PATIENCE,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        # The server takes no step twice.
        self._first_step = self._run.starting_step if online else 0
        return False

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.step >= self._first_step:
                self._run.log(dict(point.values), step=point.step)

    def close(self, ending: Ending, artifacts: Sequence[Path]) -> None:
        import wandb

        for path in artifacts:
            copy = shutil.copy(path, self._run.dir)
            self._run.save(str(copy), base_path=self._run.dir, policy="now")
        if ending is Ending.STOPPED:
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if ending is Ending.DONE else 1)
        wandb.teardown()
