"""One run on this machine: the trainer as a process, its folder locked, its status watched."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from finetune_api.manifest import InvalidManifest, Problem
from finetune_api.names import ENV_PARENT, ENV_TERMINATION_LOG
from finetune_api.progress import FailureClass, Outcome
from finetune_api.run import RunConfig
from finetune_api.status import Phase, Status

POLL_SECONDS = 0.2
LOG_FILE = "trainer.log"
LOCK_FILE = ".lock"
CONFIG_FILE = ".run-config.json"
OUTCOME_FILE = ".outcome.json"
"""The trainer's last word about this attempt; `outcome.json` beside it belongs to the run."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second run out of `folder`. Raises InvalidManifest while another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = Problem(f"--output {folder}", "another run is using this folder", "wait for it, or name another")
            raise InvalidManifest([problem]) from None
        yield


def set_aside(folder: Path) -> Path | None:
    """Moves a former run out of the way and says where it is now; None if there was none."""
    if not folder.exists():
        return None
    taken = (folder.with_name(f"{folder.name}.{number}") for number in range(1, 10_000))
    free = next(candidate for candidate in taken if not candidate.exists())
    return folder.rename(free)


def run_trainer(config: RunConfig, show: Callable[[Status], None]) -> int:
    """Starts the trainer, shows each new status, and returns its exit code.

    Ctrl-C and SIGTERM reach the trainer as SIGTERM: it saves and leaves with 75.
    """
    folder = Path(config.folder)
    former = read_status(folder)
    config_file, outcome_file = folder / CONFIG_FILE, folder / OUTCOME_FILE
    outcome_file.unlink(missing_ok=True)
    config_file.write_text(config.model_dump_json(by_alias=True, exclude_none=True, indent=2), encoding="utf-8")
    with (folder / LOG_FILE).open("ab") as log:
        trainer = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", str(config_file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, ENV_TERMINATION_LOG: str(outcome_file), ENV_PARENT: str(os.getpid())},
            start_new_session=True,
        )
        with _forwarded_to(trainer):
            return _watch(trainer, folder, show, former)


def run_prediction(run: Path, file: str | None, values: list[str], output: Path | None) -> int:
    """Lets the trainer predict; it prints for itself. Returns its exit code."""
    arguments = [str(run), *([file] if file else []), *(f"--input={value}" for value in values)]
    arguments += [f"--output={output}"] if output else []
    return subprocess.run([sys.executable, "-m", "finetune_trainer.predict", *arguments], check=False).returncode


def check_data(config: RunConfig) -> tuple[int, dict[str, Any] | None]:
    """Lets the trainer read the rows of a run that is not begun; its exit code, and what it tells of them."""
    return _told("finetune_trainer.check", config, [])


def plan(config: RunConfig, gpu_memory: float | None) -> tuple[int, dict[str, Any] | None]:
    """Lets the trainer estimate what a run needs that is not begun; its exit code, and the plan."""
    return _told("finetune_trainer.planning", config, [f"--gpu-memory={gpu_memory}"] if gpu_memory else [])


def _told(module: str, config: RunConfig, options: list[str]) -> tuple[int, dict[str, Any] | None]:
    """What a module of the trainer prints about a run: its exit code, and its JSON document if that is 0."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write(config.model_dump_json(by_alias=True, exclude_none=True))
        file.flush()
        command = [sys.executable, "-m", module, file.name, *options]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    return ended.returncode, json.loads(ended.stdout) if ended.returncode == 0 else None


def run_report(runs: list[Path], output: Path | None) -> tuple[int, dict[str, Any] | None]:
    """Lets the trainer make the page; its exit code, and what it tells of the runs if it could."""
    arguments = [*map(str, runs), *([f"--output={output}"] if output else [])]
    command = [sys.executable, "-m", "finetune_trainer.pages", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    return ended.returncode, json.loads(ended.stdout) if ended.returncode == 0 else None


@contextlib.contextmanager
def _forwarded_to(trainer: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(_signal: int, _frame: FrameType | None) -> None:
        trainer.terminate()

    former = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _watch(trainer: subprocess.Popen[bytes], folder: Path, show: Callable[[Status], None], seen: Status | None) -> int:
    """Shows each status that is not the one `seen` before, until the trainer ends; returns its exit code."""
    while True:
        code = trainer.poll()
        status = read_status(folder)
        if status is not None and status != seen:
            show(status)
            seen = status
        if code is not None:
            return code
        time.sleep(POLL_SECONDS)


def read_status(folder: Path) -> Status | None:
    """`status.json` of a run's folder; None before the trainer wrote one."""
    try:
        return Status.model_validate_json((folder / "status.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_outcome(folder: Path) -> Outcome | None:
    """How the attempt ended; None if the trainer did not get to say it."""
    try:
        return Outcome.model_validate_json((folder / OUTCOME_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` has left its model: it ended well, or only its gate failed."""
    status = read_status(folder)
    if status is None:
        return False
    gate_failed = status.failure is not None and status.failure.class_ is FailureClass.EVALUATION_GATE_FAILED
    return status.phase == Phase.SUCCEEDED or (status.phase == Phase.FAILED and gate_failed)


def pushed_uri(folder: Path) -> str | None:
    """Where the model of the run in `folder` was pushed to."""
    status = read_status(folder)
    return status.output.pushed_uri if status is not None and status.output is not None else None


def log_tail(folder: Path, lines: int = 20) -> str:
    """The last lines of the trainer's log."""
    text = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])
