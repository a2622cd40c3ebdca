"""Ranks whose steps do not go as they should."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from support.runs import fork_rank

STEP = 5
"""Steps that are done before one is disturbed."""
CULPRIT = "1"


def asleep(environment: Mapping[str, str]) -> int:
    """Rank 1 sleeps for ever in a step."""
    return fork_rank(environment, lambda: _in_step(_only_culprit(lambda: time.sleep(3600))))


def _only_culprit(work: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: work() if os.environ["RANK"] == CULPRIT else None


def _in_step(work: Callable[[], Any]) -> None:
    """Do `work` in every step once some are done."""
    from finetune_trainer.training import loop

    optimize = loop.optimize

    def disturbed(run: Any, *arguments: Any) -> Any:
        if run.state.step >= STEP:
            work()
        return optimize(run, *arguments)

    loop.optimize = disturbed
