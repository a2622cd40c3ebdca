"""The push as the supervisor sees it: a process that is started, watched and, when we are asked to stop, ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_api.progress import Failure, Outcome, Result
from finetune_api.run import RunConfig
from finetune_trainer import files
from finetune_trainer.errors import CodeError, Preempted
from finetune_trainer.handover import ENV_SUPERVISOR
from finetune_trainer.pushing.delivery import last_pushed, mark_trained, missing
from finetune_trainer.pushing.places import places
from finetune_trainer.report.snapshot import Activity
from finetune_trainer.report.status_file import doing

POLL = 0.1
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL: there is nothing to save."""
CONFIG, FAILURE = "pushing.json", "pushing-failure.json"


def deliver(
    config: RunConfig, outcome: Outcome, scratch: Path, should_stop: Callable[[], bool], environment: Mapping[str, str]
) -> Outcome:
    """Push the model of a run that succeeded where it is still missing; its outcome, with where it is or why not.

    Raises Preempted when asked to stop. After that, as after a failure, the next attempt only pushes.
    """
    if not places(config):
        return outcome
    folder = Path(config.folder)
    mark_trained(folder)
    if missing(config):
        doing(folder, Activity.PUSHING, time.time())
        if failure := _push(config, scratch, should_stop, environment):
            return outcome.model_copy(update={"outcome": Result.FAILED, "failure": failure})
    pushed = last_pushed(config)
    if pushed is None or outcome.output is None:
        return outcome
    where = outcome.output.model_copy(update={"pushed_uri": pushed.uri, "pushed_digest": pushed.digest})
    return outcome.model_copy(update={"output": where})


def _push(
    config: RunConfig, scratch: Path, should_stop: Callable[[], bool], environment: Mapping[str, str]
) -> Failure | None:
    """Why the push failed; None if it did not."""
    path, said = scratch / CONFIG, scratch / FAILURE
    path.write_text(config.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
    files.remove(said)
    command = [sys.executable, "-m", "finetune_trainer.pushing", str(path), str(said)]
    own = {**environment, ENV_SUPERVISOR: str(os.getpid())}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=own, start_new_session=True)
    try:
        while process.poll() is None:
            if should_stop():
                raise Preempted("Preempted", "asked to stop while the model was pushed", "run it again to go on")
            time.sleep(POLL)
    finally:
        _end(process)
    if process.returncode == 0:
        return None
    if (failure := files.read_json(said)) is not None:
        return Failure.model_validate(failure)
    return CodeError("PushFailed", f"the push ended with code {process.returncode}", "see the log").failure()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
