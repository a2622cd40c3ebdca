"""Runs that are stopped and killed at random moments, and everything of a run that has to have the same bytes after.

A moment is drawn from a seed that stands in the test's name, so that a run that failed can be repeated; what the
machine does beside it moves the moment by some milliseconds all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.progress import ExitCode, Result
from support.runs import PATIENCE, ARun, Attempt, WarmTrainer, fork_rank

SLOW_SECONDS = 0.1
"""What a slow disk takes for each file that has to be on it."""
OF_THE_CLOCK = {"time", "tokens_per_second"}
OF_THE_ATTEMPT = {"seconds", "energy", "run_id", "log_bytes"}
"""What a checkpoint's state has of the clock; times in the log of metrics are of any length."""


Comes = Callable[[Attempt, random.Random], Callable[[], bool]]
"""Made anew for each attempt: what tells that its moment has come."""


@dataclass(frozen=True)
class Moment:
    """When a run is struck: as soon as it has come, and up to `within` seconds later."""

    name: str
    comes: Comes
    within: float
    slow_disk: bool = False
    cold_cache: bool = False


@dataclass(frozen=True)
class Blow:
    """A signal at a moment: SIGTERM to the supervisor, as the kubelet sends it; SIGKILL for everything at once."""

    signal: signal.Signals
    moment: Moment

    def __str__(self) -> str:
        return f"{self.signal.name} {self.moment.name}"


def term(moment: Moment) -> Blow:
    return Blow(signal.SIGTERM, moment)


def kill(moment: Moment) -> Blow:
    return Blow(signal.SIGKILL, moment)


def at_steps(name: str, first: int, last: int) -> Moment:
    """Between two steps, or within one, of those from `first` to `last`."""

    def comes(attempt: Attempt, dice: random.Random) -> Callable[[], bool]:
        step = dice.randint(first, last)
        return lambda: logged_step(attempt.run) >= step

    return Moment(name, comes, within=0.03)


def logged_step(run: ARun) -> int:
    """The last step in the log of metrics."""
    path = run.folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _seen(name: str, holds: Callable[[Attempt], bool], within: float, **how: bool) -> Moment:
    return Moment(name, lambda attempt, dice: lambda: holds(attempt), within, **how)  # noqa: ARG005


def in_evaluation(after: int = 0) -> Moment:
    """In the first evaluation after so many steps."""

    def holds(attempt: Attempt) -> bool:
        return logged_step(attempt.run) >= after and activity(attempt.run) == "Evaluating"

    return _seen("in an evaluation", holds, within=0.15)


def activity(run: ARun) -> str:
    """What status.json says that the run does."""
    try:
        conditions = json.loads((run.folder / "status.json").read_text())["conditions"]
    except (OSError, ValueError):
        return ""
    return next((str(condition["reason"]) for condition in conditions if condition["type"] == "Running"), "")


def in_save() -> Moment:
    """While a checkpoint is written to a slow disk."""

    def holds(attempt: Attempt) -> bool:
        return any(attempt.run.checkpoints.glob(".tmp-step-*"))

    return _seen("in a save", holds, within=5 * SLOW_SECONDS, slow_disk=True)


def in_results() -> Moment:
    """While the finished model and what is told of it are written to a slow disk."""
    return _seen(
        "in the results", lambda attempt: (attempt.run.folder / ".model.tmp").exists(), within=0.5, slow_disk=True
    )


def in_encoding() -> Moment:
    """While rows are encoded, which were not before."""

    def holds(attempt: Attempt) -> bool:
        return any(cold_cache(attempt.run).glob("encoded/.unfinished-*"))

    return _seen("in encoding", holds, within=0.03, cold_cache=True)


def in_features() -> Moment:
    """While features of a frozen backbone are computed."""
    return _seen("in feature caching", lambda attempt: any(map(_writes_features, attempt.ranks())), within=0.15)


def _writes_features(rank: int) -> bool:
    try:
        return any("/features/" in str(file.readlink()) for file in Path(f"/proc/{rank}/fd").iterdir())
    except OSError:
        return False


def in_preparation() -> Moment:
    """From the first rank on: while it imports, reads, loads and builds."""
    return _seen("in preparation", lambda attempt: bool(attempt.ranks()), within=0.5)


def cold_cache(run: ARun) -> Path:
    """A cache of the attempt's own, in which nothing is."""
    return run.root / f"cache-{run.config['job']['attempt']}"


def strike(trainer: WarmTrainer, run: ARun, blows: Sequence[Blow], seed: int) -> ARun:
    """The run's next attempt, after one for each blow."""
    dice = random.Random(seed)
    for blow in blows:
        attempt = start(trainer, run, blow.moment)
        wait_for(attempt, blow.moment, dice)
        strike_once(attempt, blow)
        run = next_attempt(run)
    return run


def start(trainer: WarmTrainer, run: ARun, moment: Moment) -> Attempt:
    environment = {"FINETUNE_CACHE": str(cold_cache(run))} if moment.cold_cache else {}
    return trainer.start(run, on_a_slow_disk if moment.slow_disk else None, **environment)


def wait_for(attempt: Attempt, moment: Moment, dice: random.Random) -> None:
    """Until the moment has come, and some time more."""
    comes, later = moment.comes(attempt, dice), dice.uniform(0.0, moment.within)
    deadline = time.monotonic() + PATIENCE
    while not comes():
        assert attempt.process.is_alive(), f"it ended before it was {moment.name}:\n{attempt.log}"
        assert time.monotonic() < deadline, f"it was never {moment.name}:\n{attempt.log}"
        time.sleep(0.002)
    time.sleep(later)


def strike_once(attempt: Attempt, blow: Blow) -> None:
    """An attempt that is asked to stop ends with 75, Preempted."""
    assert attempt.process.is_alive(), f"{blow} came too late:\n{attempt.log}"
    if blow.signal is signal.SIGKILL:
        attempt.vanish()
        return
    attempt.send(blow.signal)
    ended = attempt.end()
    assert (ended.code, ended.outcome.outcome) == (ExitCode.PREEMPTED, Result.PREEMPTED), f"{blow}:\n{ended.log}"
    assert attempt.run.read("status.json")["phase"] == "Suspended"


def on_a_slow_disk(environment: Mapping[str, str]) -> int:
    """A rank on whose disk every file takes its time."""
    return fork_rank(environment, partial(_slow_down, SLOW_SECONDS))


def on_a_slower_disk(environment: Mapping[str, str]) -> int:
    """A rank that takes longer than a second for a checkpoint."""
    return fork_rank(environment, partial(_slow_down, 10 * SLOW_SECONDS))


def _slow_down(seconds: float) -> None:
    sync = os.fsync

    def slowly(descriptor: int) -> None:
        time.sleep(seconds)
        sync(descriptor)

    os.fsync = slowly  # type: ignore[assignment]


def next_attempt(run: ARun, **checkpoint: Any) -> ARun:
    return run.with_("job", attempt=run.config["job"]["attempt"] + 1).with_("checkpoint", **checkpoint)


def in_folder(run: ARun, root: Path) -> ARun:
    """The same run in another folder."""
    moved = {"folder": str(root / "run"), "checkpointFolder": str(root / "run" / "checkpoints")}
    return ARun(root, {**run.config, **moved})


def resumed_step(run: ARun) -> int:
    """The step that the last attempt went on from; 0 if it began at the beginning."""
    step: int = run.read("status.json")["checkpoint"].get("resumedFromStep", 0)
    return step


def without_time(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what depends on the clock."""
    return [{name: line[name] for name in line if name not in OF_THE_CLOCK} for line in lines]


def what_is_left(run: ARun) -> dict[str, Any]:
    """Of a finished run all that does not depend on the clock: files by a hash of their bytes."""
    found: dict[str, Any] = {
        "metrics": without_time(run.lines("metrics.jsonl")),
        "evaluation": {name: run.read("evaluation.json")[name] for name in ("metrics", "best")},
        "predictions": run.lines("predictions.jsonl"),
        "best": sorted(path.name for path in run.checkpoints.glob("best-*")),
    }
    found |= {f"model/{name}": value for name, value in _hashes(run.folder / "model").items()}
    return found | {f"checkpoint/{name}": value for name, value in checkpoint_of(newest(run)).items()}


def newest(run: ARun) -> Path:
    """The last checkpoint."""
    return max(run.checkpoints.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def checkpoint_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds: the bytes of weights and optimizer, and the state but for what is of the clock."""
    hashes = {name: value for name, value in _hashes(folder).items() if name not in ("manifest.json", "state.json")}
    state = json.loads((folder / "state.json").read_text())
    return hashes | {"state": {name: value for name, value in state.items() if name not in OF_THE_ATTEMPT}}


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}
