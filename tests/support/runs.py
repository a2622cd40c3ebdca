"""Running the trainer as it is: RunConfigs for tests, and a warm process from which supervisors are forked.

Importing torch takes seconds, so it is done once, in the process that `multiprocessing` forks from. What is forked is
the real supervisor, which forks its ranks where it would otherwise execute them; all else is as in a pod.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from finetune_api.progress import Outcome
from finetune_trainer import supervisor
from finetune_trainer.gang import Launch

WARM = ["finetune_trainer.worker", "sklearn.metrics", "peft", "datasets", "support.warm"]
PATIENCE = 120.0


@dataclass(frozen=True)
class ARun:
    """A RunConfig as a dictionary, in a folder of its own."""

    root: Path
    config: Mapping[str, Any]

    def with_(self, section: str, **fields: Any) -> ARun:
        """With fields of one section replaced."""
        return replace(self, config={**self.config, section: {**self.config[section], **fields}})

    def with_processes(self, count: int) -> ARun:
        return self.with_("resources", processesPerNode=count)

    @property
    def folder(self) -> Path:
        return Path(self.config["folder"])

    @property
    def checkpoints(self) -> Path:
        return Path(self.config["checkpointFolder"])

    def write(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "config.json"
        path.write_text(json.dumps(self.config))
        return path

    def read(self, name: str) -> Any:
        """A JSON file of the run's folder."""
        return json.loads((self.folder / name).read_text())

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A file of the run's folder with a JSON object a line."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def weights(self) -> bytes:
        return (self.folder / "model" / "model.safetensors").read_bytes()


def a_run(root: Path, data: str, model: str, **training: Any) -> ARun:
    """A small run of a few dozen steps with all its files below `root`; saves only when asked to stop."""
    config = {
        "version": "v1",
        "job": {"namespace": "default", "name": "test", "uid": "0a1b2c3d", "run": 1, "attempt": 1},
        "task": "text-classification",
        "model": {"uri": model},
        "dataset": {"train": [{"uri": data}], "validation": {"fraction": 0.15}, "test": {"fraction": 0.15}},
        "method": {},
        "training": {"numTrainEpochs": 8, "trainBatchSize": 16, "learningRate": 3e-3, "seed": 7} | training,
        "evaluation": {},
        "checkpoint": {"everySeconds": 3600, "graceSeconds": 30},
        "output": {},
        "resources": {"processesPerNode": 1},
        "parallelism": {},
        "folder": str(root / "run"),
        "checkpointFolder": str(root / "run" / "checkpoints"),
        "baseFolder": str(root),
    }
    return ARun(root, config)


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, log, and the termination message that the kubelet would have."""

    code: int
    log: str
    outcome: Outcome


class Attempt:
    """A supervisor that is running."""

    def __init__(self, process: BaseProcess, run: ARun) -> None:
        self.process = process
        self.run = run

    @property
    def log(self) -> str:
        path = self.run.root / "log"
        return path.read_text() if path.exists() else ""

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until `condition` holds. Fails with the log if the run ends before, or patience does."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.is_alive(), f"ended before {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {what} after {PATIENCE} s:\n{self.log}"
            time.sleep(0.01)

    def until_step(self, step: int) -> None:
        """Wait until the log of metrics has reached `step`."""
        path = self.run.folder / "metrics.jsonl"
        self.until(lambda: path.exists() and f'"step": {step},' in path.read_text(), f"step {step}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor, as the kubelet does."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ranks(self) -> list[int]:
        """Process ids of the ranks, by rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(int(pid) for pid in children)

    def vanish(self) -> None:
        """Kill everything at once, as when a node loses power."""
        ranks = self.ranks()
        self.process.kill()
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.join(PATIENCE)

    def end(self) -> Ended:
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"still running after {PATIENCE} s:\n{self.log}"
        message = self.run.root / "termination"
        assert message.exists(), f"exit code {self.process.exitcode} and no termination message:\n{self.log}"
        return Ended(self.process.exitcode, self.log, Outcome.model_validate_json(message.read_text()))


class WarmTrainer:
    """Starts runs from a process that has imported torch and nothing more."""

    def __init__(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the machine has tests beside this one
        # The server is told of PYTHONPATH only; without it WARM is not found, and every run imports all of it itself.
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(WARM)

    def fork(self, work: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
        """A process that has imported torch and does `work`."""
        process = self._context.Process(target=work, args=arguments)
        process.start()
        return process

    def start(self, run: ARun, launch: Launch | None = None, **environment: str) -> Attempt:
        """`launch` starts the ranks in another way; it has to be a function that can be imported."""
        path = run.write()
        own = {"FINETUNE_TERMINATION_LOG": str(run.root / "termination")} | environment
        return Attempt(self.fork(_supervise, (str(path), own, str(run.root / "log"), launch)), run)

    def run(self, run: ARun, launch: Launch | None = None, **environment: str) -> Ended:
        return self.start(run, launch, **environment).end()


def _supervise(config: str, environment: Mapping[str, str], log: str, launch: Launch | None) -> None:
    _log_to(log)
    os.environ.update(environment)
    sys.exit(supervisor.main([config], os.environ, launch or fork_rank))


def _log_to(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


def fork_rank(environment: Mapping[str, str], prepare: Callable[[], None] | None = None) -> int:
    """A rank as a fork of this process, with the signals and the log of a fresh one; it does `prepare` first."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
        return pid
    code = 1
    try:
        for number in stops:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
        logging.root.handlers.clear()
        os.environ.clear()
        os.environ.update(environment)
        from finetune_trainer import rank

        if prepare is not None:
            prepare()
        code = rank.main()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
