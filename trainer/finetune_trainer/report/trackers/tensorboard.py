"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.files import CARD, TENSORBOARD
from finetune_trainer.report.snapshot import Ending
from finetune_trainer.report.trackers.adapter import Point, Tracked

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """All attempts write into one folder.

    A later attempt purges the curves that are there and writes all of metrics.jsonl anew: a killed one may have lost
    its last points, or written some after the checkpoint.
    """

    _writer: SummaryWriter

    def open(self, run: Tracked) -> bool:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / TENSORBOARD
        known = any(folder.glob("events.*"))
        self._writer = SummaryWriter(str(folder), purge_step=0 if known else None)
        if not known:
            described = {"tags": dict(run.tags), "parameters": run.parameters}
            self._text("run", f"```json\n{json.dumps(described, indent=2)}\n```")
        return False

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step, walltime=point.time)
        self._writer.flush()

    def close(self, ending: Ending, artifacts: Sequence[Path]) -> None:  # noqa: ARG002
        """It holds no files; the model card is a text."""
        for path in artifacts:
            if path.name == CARD:
                self._text("card", path.read_text(encoding="utf-8"))
        self._writer.close()

    def _text(self, name: str, text: str) -> None:
        self._writer.add_text(name, text)
