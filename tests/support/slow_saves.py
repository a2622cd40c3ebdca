"""Ranks whose volume is slow, or whose memory is short."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from support.runs import fork_rank

SECONDS = 1.0
"""How long it takes to sync a file, or a folder: a checkpoint has three files and two folders to sync."""


def slow(environment: Mapping[str, str]) -> int:
    """Checkpoints take seconds until they are on the disk."""
    return fork_rank(environment, _slow_down)


def _slow_down() -> None:
    from finetune_trainer.training import checkpoint

    sync = checkpoint.sync

    def slowly(path: Path) -> None:
        time.sleep(SECONDS)
        sync(path)

    checkpoint.sync = slowly  # type: ignore[attr-defined]


def short_of_memory(environment: Mapping[str, str]) -> int:
    """Only one MiB of memory is left."""
    return fork_rank(environment, _leave_little)


def _leave_little() -> None:
    from finetune_trainer.training import saving

    saving.available_memory = lambda: 1 << 20  # type: ignore[attr-defined]


def slow_to_conclude(environment: Mapping[str, str]) -> int:
    """The page that a run leaves takes a minute."""
    return fork_rank(environment, _conclude_slowly)


def _conclude_slowly() -> None:
    from finetune_trainer import results

    results.leave_page = lambda *_: time.sleep(60)  # type: ignore[attr-defined]
