"""The launcher of other people's programs, run as a pod runs it: by its path, in a Python of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.progress import Outcome
from finetune_operator.program import launch

PATIENCE = 240.0


@dataclass(frozen=True)
class Launched:
    """How it ended: exit code, log, and the termination message that the kubelet would have."""

    code: int
    log: str
    message: str

    @property
    def outcome(self) -> Outcome:
        return Outcome.model_validate_json(self.message)


class Launcher:
    """`launch.py -- COMMAND` that is running; its files lie in `folder`."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log, self._message = folder / "log", folder / "termination"
        own = {"FINETUNE_TERMINATION_LOG": str(self._message)} | environment
        python = [sys.executable, "-I", str(launch.__file__)]
        with self._log.open("wb") as log:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [*python, "--", *command], env=os.environ | own, stdout=log, stderr=log, cwd=folder
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until(self, text: str) -> None:
        """Wait until the log has `text`."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.log:
            assert self.process.poll() is None, f"ended before {text!r}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {text!r} in {PATIENCE} s:\n{self.log}"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> Launched:
        code = self.process.wait(PATIENCE)
        message = self._message.read_text(encoding="utf-8") if self._message.exists() else ""
        return Launched(code, self.log, message)


def launched(folder: Path, *command: str, **environment: Any) -> Launched:
    """The end of a command under the launcher."""
    return Launcher(folder, *command, **environment).end()
