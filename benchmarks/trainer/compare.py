"""Takes turns: every round measures each side once, in a process of its own, and the next round in reverse order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.trainer.sides import AUTO, OURS, SIDES, TRL_PADDED, TRL_PADDING_FREE
from benchmarks.trainer.workloads import CONFIG, FACTS, Workload, tell_workload

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "benchmarks" / ".packages"
"""Where `make bench-trainer` puts TRL, which nothing else of the project uses."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What a shell may have said of how threads wait: no side is to hear it."""
LINES = 15
"""Of a program's log, if it failed."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class How:
    """How everything is measured. `passive` lets the peers' threads sleep while they wait, as ours do; `peer_options`
    are further TrainingArguments of all peers.
    """

    precision: str = "fp32"
    rounds: int = 3
    threads: int = 2
    gpus: int = 0
    passive: bool = False
    peer_options: Mapping[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """A program ended with an error; the text has the end of its log."""


def compare(workload: Workload, sides: Sequence[str], folder: Path, how: How, tell: Tell) -> dict[str, Any]:
    """Measurements of each side by its name, one a round, of one that failed what it said; and what is known of the
    device as `facts`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tell_workload(workload, how.precision, how.gpus, folder)
    try:
        _run(["-m", "benchmarks.trainer.prepare", str(folder)], _environment(folder, how), folder / "prepare.log")
    except Failed as error:
        tell(f"{workload.name}: {error}")
        return {side: [{"error": str(error)}] for side in sides} | {"facts": {}}
    found: dict[str, Any] = {side: [] for side in sides}
    for number in range(how.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            measured = measure(side, folder, how)
            found[side].append(measured)
            said = measured.get("error") or f"{measured['seconds']:.2f} s, {measured['peak_mib']:.0f} MiB"
            tell(f"{workload.name}, round {number + 1}, {side}: {said}")
    facts = folder / FACTS
    found["facts"] = json.loads(facts.read_text(encoding="utf-8")) if facts.exists() else {}
    shutil.rmtree(folder, ignore_errors=True)
    return found


def measure(side: str, folder: Path, how: How) -> dict[str, Any]:
    """What the side says of itself, and `wall_seconds`, from the start of its process to its end."""
    result = folder / f"{side}.json"
    result.unlink(missing_ok=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    started = time.perf_counter()
    try:
        _run(_command(side, folder, result, how), _environment(folder, how, side), folder / f"{side}.log")
    except Failed as error:
        return {"error": str(error)}
    measured: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return measured | {"wall_seconds": time.perf_counter() - started}


def _command(side: str, folder: Path, result: Path, how: How) -> list[str]:
    if side in (OURS, AUTO):
        return ["-m", "benchmarks.trainer.ours", str(folder / CONFIG.format(side=side)), str(result)]
    return [
        "-m",
        "benchmarks.trainer.peer",
        str(folder),
        side,
        str(result),
        str(how.threads),
        json.dumps(how.peer_options),
    ]


def _environment(folder: Path, how: How, side: str = OURS) -> Mapping[str, str]:
    """Off the network. Threads wait as each program has it by itself."""
    own = {name: value for name, value in os.environ.items() if name not in WAITING}
    if how.passive and side not in (OURS, AUTO):
        own["OMP_WAIT_POLICY"] = "PASSIVE"
    paths = [str(ROOT), *([str(PACKAGES)] if side in (TRL_PADDED, TRL_PADDING_FREE) else [])]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    cache = {"FINETUNE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "huggingface")}
    return own | quiet | cache | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(how.threads)}


def _run(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT, stdout=file, stderr=file)
    if done.returncode != 0:
        raise Failed("\n".join(log.read_text(encoding="utf-8").splitlines()[-LINES:]))


def profile(workload: Workload, folder: Path, how: How) -> str:
    """The operators that took longest in five steps of ours, as a table."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tell_workload(workload, how.precision, how.gpus, folder)
    environment = _environment(folder, how)
    _run(["-m", "benchmarks.trainer.prepare", str(folder)], environment, folder / "prepare.log")
    command = [*_command(OURS, folder, folder / "ours.json", how), str(folder / "profile.txt")]
    _run(command, environment, folder / "ours.log")
    return (folder / "profile.txt").read_text(encoding="utf-8")


def missing(sides: Sequence[str]) -> list[str]:
    """The sides that cannot run here, because TRL is not installed."""
    there = (PACKAGES / "trl").is_dir()
    return [side for side in sides if SIDES[side].name in (TRL_PADDED, TRL_PADDING_FREE) and not there]
