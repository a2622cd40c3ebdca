"""Long-running programs: started in the background, known by pid and start time, stopped without a guess."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


class ComponentFailed(RuntimeError):
    """A component of the cluster ended or was not ready in time; the message carries the tail of its log."""


def run(argv: Sequence[str | Path], *, stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a program to its end and returns its standard output; on failure raises with what it said."""
    environment = {**os.environ, **env} if env else None
    done = subprocess.run([str(a) for a in argv], input=stdin, env=environment, text=True, capture_output=True)
    if done.returncode:
        command = " ".join(str(a) for a in argv)
        raise CommandFailed(f"{command} exited {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def disk_usage(directory: Path) -> int:
    """Bytes that a directory takes on the disk."""
    return int(run(["du", "--summarize", "--block-size=1", directory]).split()[0])


def say(text: str) -> None:
    """Tells the person who waits what takes so long."""
    print(text, file=sys.stderr, flush=True)


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Runs a program to its end and says whether it exited with zero; one that is not installed does not."""
    if not shutil.which(argv[0]):
        return False
    return subprocess.run([str(a) for a in argv], capture_output=True).returncode == 0


class CommandFailed(RuntimeError):
    """A program exited with an error; the message carries its command line and output."""


def wait_until(ready: Callable[[], bool], seconds: float, interval: float = 0.1) -> bool:
    """Polls until ready, and says whether it became so in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(interval)
    return ready()


@dataclass(frozen=True)
class ProcessId:
    """A pid with the process's start time, so that a recycled pid is never mistaken for ours."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The identity of a live process; None where it has ended."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, start_time = fields[0], int(fields[19])
        return None if state in "ZX" else cls(pid, start_time)


def children(pid: int) -> list[int]:
    """The direct children of a process's main thread."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@dataclass(frozen=True)
class Daemon:
    """A program in the background; any later process can find it again by its pid file."""

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "logs" / f"{self.name}.log"

    @property
    def _pidfile(self) -> Path:
        return self.directory / "pids" / self.name

    def start(self, argv: Sequence[str | Path]) -> None:
        """Starts the program in a session of its own, its output in the log."""
        for parent in (self.log.parent, self._pidfile.parent):
            parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [str(a) for a in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        identity = ProcessId.of(process.pid)
        if identity:
            self._pidfile.write_text(f"{identity.pid} {identity.start_time}")

    @property
    def pid(self) -> int | None:
        """The pid while the program runs, else None."""
        try:
            pid, start_time = map(int, self._pidfile.read_text().split())
        except (FileNotFoundError, ValueError):
            return None
        return pid if ProcessId.of(pid) == ProcessId(pid, start_time) else None

    def stop(self) -> None:
        """Kills the program if it runs: nothing here has state that a gentle end would save."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.pid is None, seconds=10, interval=0.02)
        self._pidfile.unlink(missing_ok=True)

    def await_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until ready; raises ComponentFailed as soon as the program ends, or when time is up."""
        wait_until(lambda: self.pid is None or ready(), seconds)
        if self.pid is None:
            raise ComponentFailed(f"{self.name} ended. {self.tail()}")
        if not ready():
            raise ComponentFailed(f"{self.name} was not ready within {seconds:g} s. {self.tail()}")

    def tail(self, lines: int = 30) -> str:
        """The end of the log, with its path."""
        try:
            text = self.log.read_text(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            text = []
        return f"The end of {self.log}:\n" + "\n".join(text)
