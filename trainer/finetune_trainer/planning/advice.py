"""What a supervisor says of a rank that ran out of memory. Standard library: the estimate is a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_api.progress import MAX_MESSAGE, Failure, FailureClass
from finetune_api.run import RunConfig
from finetune_trainer import handover, heartbeat

log = logging.getLogger(__name__)
SHORT_OF_MEMORY = (FailureClass.OUT_OF_MEMORY_GPU, FailureClass.OUT_OF_MEMORY_HOST)
POLL_SECONDS = 0.1
PATIENCE = 120.0
"""Seconds that the estimate may take; without it the failure keeps its general hint."""


def advised(failure: Failure, config: RunConfig, scratch: Path, stopped: Callable[[], bool]) -> Failure:
    """A failure for want of memory with where it was and what would fit; any other as it is.

    Nobody waits for it once `stopped`.
    """
    if failure.class_ not in SHORT_OF_MEMORY:
        return failure
    found = _estimate(config, scratch, stopped)
    if found is None:
        return failure
    message = f"{failure.message}; {where(found, _step(scratch))}"
    hint = advice(found["changes"], failure)
    return failure.model_copy(update={"message": message[:MAX_MESSAGE], "hint": hint[:MAX_MESSAGE]})


def where(found: Mapping[str, Any], step: int | None) -> str:
    """The step, the longest micro-batch and the settings, in words."""
    when = "before the first step" if not step else f"after step {step}"
    now = found["settings"]
    parts = [now["method"], now["precision"], now["optimizer"]]
    parts += ["gradientCheckpointing"] if now["gradientCheckpointing"] else []
    parts += [f"{now['processes']} processes by {now['strategy']}"] if now["processes"] > 1 else []
    return f"{when}; the longest micro-batch is {found['rows']} rows x {found['longest']} ({', '.join(parts)})"


def advice(changes: Mapping[str, Any] | None, failure: Failure) -> str:
    """The fields to set, in order, or what is left where none of them is enough."""
    memory = "spec.resources.memory"
    if failure.class_ is FailureClass.OUT_OF_MEMORY_GPU:
        memory = "spec.resources.gpuResource with more memory"
    if not changes:
        return (
            f"ask for more: {memory}; no other setting makes this model fit, but a smaller spec.training.maxLength may"
        )
    fields = ", then ".join(f"{path}: {value}" for path, value in changes.items())
    return f"by the estimate of `finetune plan` it fits with {fields}; or ask for more: {memory}"


def _estimate(config: RunConfig, scratch: Path, stopped: Callable[[], bool]) -> dict[str, Any] | None:
    """What `shortage` finds; None if it cannot, or not in time."""
    path, said, log_file = (scratch / f"plan.{ending}" for ending in ("json", "out", "log"))
    path.write_text(config.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
    command = [sys.executable, "-m", "finetune_trainer.planning", str(path), "--after", str(scratch)]
    environment = handover.offline_environment(os.environ)
    log.info("estimating which settings would fit")
    with said.open("wb") as output, log_file.open("wb") as errors:
        estimate = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        deadline = time.monotonic() + PATIENCE
        while estimate.poll() is None and not stopped() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        estimate.kill()
        code = estimate.wait()
    if code != 0:
        log.info("that failed (%d): %s", code, log_file.read_text(errors="replace").strip()[-400:])
        return None
    found: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
    return found


def _step(scratch: Path) -> int | None:
    """How many steps the ranks of this pod have done."""
    steps = [beat.step for beat in heartbeat.read(scratch / heartbeat.BEATS) if beat.step is not None]
    return max(steps, default=None)
