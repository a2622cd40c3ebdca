"""What a run took: time, samples, tokens, and energy where it is known, over all of its attempts."""

from __future__ import annotations

import time
from typing import Any

from finetune_trainer.energy import described, together
from finetune_trainer.training.run import Run


def energy_of(run: Run) -> dict[str, float]:
    """Over all processes, and over the attempts up to their last checkpoint; every process takes part."""
    now = together(run.world.all_gather(run.meter.read()))
    return now if run.earlier_energy is None else together([run.earlier_energy, now])


def usage_of(run: Run, energy: dict[str, float]) -> dict[str, Any]:
    """As run.json and evaluation.json have it."""
    seconds = run.earlier_seconds + time.monotonic() - run.first_time
    return {
        "seconds": round(seconds, 3),
        "samples": run.state.samples,
        "tokens": run.state.tokens,
        **described(energy),
    }
