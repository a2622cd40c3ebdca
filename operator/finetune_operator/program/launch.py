"""Runs a training program in a pod, and tells the operator why it failed.

    python3 -I launch.py -- COMMAND [ARGUMENT...]

The program is a child of this process, which hands on its signals and its exit code. Where torch's error files say
what went wrong (torchrun, and `@record` of torch.distributed.elastic), their digest becomes the container's termination
message, an Outcome of finetune_api.progress. Where there are none, nothing is written, and the kubelet takes the end of
the log. A program that has not ended FINETUNE_GRACE_SECONDS after it was told to stop is ended, and each of its
processes writes its Python stacks into the log; SIGUSR2, which a person may send, does the same at once.

Standard library and Python 3.8 only: it runs with whatever Python the image has. torch removes an existing error file
before it writes one, which it cannot do with the mounted /dev/termination-log: hence the digest.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MOST_BYTES = 4096
"""What the kubelet keeps of a termination message."""
TAIL_LINES = 30
PEER_LOST_SECONDS = 3.0
"""How long a pod that only lost a peer waits, so that the pod with the cause ends first."""
STACKS_SECONDS = 1.0
"""How long the other processes have to write their stacks before the program's first one ends."""

DONE, PREEMPTED, CANNOT_EXECUTE, NOT_FOUND, TERMINATED = 0, 75, 126, 127, 143
STOPS = frozenset({signal.SIGTERM, signal.SIGINT})
FORWARDED = STOPS | {signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}
WATCHED = FORWARDED | {signal.SIGCHLD, signal.SIGUSR2}


class Error(NamedTuple):
    """An exception as `@record` wrote it; `time` in seconds since 1970, `rank` of the process where it is known."""

    message: str
    callstack: str
    time: float
    rank: int | None = None


class Symptom(NamedTuple):
    """What a message means."""

    pattern: str
    class_: str
    reason: str
    hint: str


PEER_LOST = Symptom(
    r"(?is)(gloo|nccl|processgroup|dist\w*error).*(connection (closed|reset|refused)|by peer|broken pipe|socket closed"
    r"|remote process exited|likely closed|failed to (recv|send))",
    "Unavailable",
    "PeerLost",
    "see how the other pods ended",
)
SYMPTOMS = (
    PEER_LOST,
    Symptom(
        r"OutOfMemoryError|(CUDA|HIP|XPU) (error: )?out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
        "OutOfMemoryGPU",
        "OutOfMemoryGPU",
        "use a smaller batch, or ask for GPUs with more memory",
    ),
    Symptom(
        r"MemoryError\b|DefaultCPUAllocator|std::bad_alloc|Cannot allocate memory",
        "OutOfMemoryHost",
        "OutOfMemoryHost",
        "raise spec.resources.memory, or start fewer processes",
    ),
    Symptom(
        r"</torch_|out of shared memory",
        "ConfigError",
        "SharedMemoryFull",
        "raise spec.resources.sharedMemory",
    ),
    Symptom(
        r"No space left on device|Disk quota exceeded",
        "StorageFull",
        "StorageFull",
        "free or enlarge the volume that it writes to",
    ),
    Symptom(
        r"(?is)(gloo|nccl|processgroup|dist\w*error).*time(d |-)?out",
        "CollectiveTimeout",
        "CollectiveTimeout",
        "see the logs of the other pods, and the network between them",
    ),
)


class End(NamedTuple):
    """How the program ended; when it was told to stop, if it was; and whether it did not stop in time."""

    code: int
    stopped: float | None = None
    late: bool = False


class Verdict(NamedTuple):
    """An exit code, the Outcome to leave with it, and whether all that is known is that a peer is gone."""

    code: int
    outcome: dict[str, Any] | None = None
    peer_lost: bool = False


def main(arguments: Sequence[str]) -> int:
    """Run the command after `--`, leave the termination message, and return the exit code."""
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: launch.py -- COMMAND [ARGUMENT...]", file=sys.stderr)
        return CANNOT_EXECUTE
    command = list(arguments[1:])
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        environment = child_environment(os.environ, folder)
        try:
            end = run(command, environment)
        except OSError as error:
            return conclude(not_started(command[0], error))
        workers = worker_files(environment["PET_LOG_DIR"])
        errors = list(read_errors(workers, environment, command))
        silent = not all(map(os.path.exists, workers.values()))
    verdict = judge(end, errors, silent)
    if verdict.peer_lost and environment.get("FINETUNE_NODES", "1") != "1":
        signal.sigtimedwait(STOPS, PEER_LOST_SECONDS)
    return conclude(verdict)


def child_environment(own: Mapping[str, str], folder: str) -> dict[str, str]:
    """The program's environment: torch's error files go below `folder`; what the user has set stays."""
    wanted = {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1", "PET_LOG_DIR": os.path.join(folder, "torchrun")}
    return {**wanted, **own, "TORCHELASTIC_ERROR_FILE": os.path.join(folder, "error.json")}


def run(command: list[str], environment: Mapping[str, str]) -> End:
    """The command's end. Signals are handed on to its first process. Raises OSError where it cannot be started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    ignored_by_python = (signal.SIGPIPE, signal.SIGXFSZ)
    child = os.posix_spawnp(command[0], command, environment, setsigmask=(), setsigdef=ignored_by_python)
    grace = float(environment.get("FINETUNE_GRACE_SECONDS") or threading.TIMEOUT_MAX)
    stopped, late = None, False
    while True:
        number = next_signal(None if stopped is None or late else stopped + grace - time.time())
        if number is None:
            late = True
            dump_stacks(child)
        elif number == signal.SIGCHLD:
            code = reap(child)
            if code is not None:
                return End(code, stopped, late)
        elif number == signal.SIGUSR2:
            dump_stacks(child)
        else:
            if number in STOPS and stopped is None:
                stopped = time.time()
            send(child, number)


def next_signal(seconds: float | None) -> int | None:
    """The next of WATCHED; None where none comes within `seconds`."""
    if seconds is None:
        return signal.sigwait(WATCHED)
    found = signal.sigtimedwait(WATCHED, max(0.0, seconds))
    return None if found is None else found.si_signo


def reap(child: int) -> int | None:
    """The exit code of `child` once it has ended, 128 + n for a signal. Buries orphans too, as process 1 must."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def dump_stacks(child: int) -> None:
    """End every process of the program by SIGABRT, on which Python writes its stacks; the first process last."""
    for pid in list(descendants(child)):
        send(pid, signal.SIGABRT)
    time.sleep(STACKS_SECONDS)
    send(child, signal.SIGABRT)


def descendants(pid: int) -> Iterator[int]:
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        children = []
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
        for child in children:
            yield child
            yield from descendants(child)


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def read_errors(workers: Mapping[int, str], environment: Mapping[str, str], command: Sequence[str]) -> Iterator[Error]:
    """What the program's processes recorded. torchrun keeps one of its workers' errors, without the rank: read all."""
    static = "PET_RDZV_BACKEND" not in environment and not any("rdzv" in word for word in command)
    first_rank = int(environment.get("FINETUNE_NODE_RANK") or 0) * len(workers)
    for local_rank, path in workers.items():
        error = read_error(path, first_rank + local_rank if static else None)
        if error is not None:
            yield error
    own = read_error(environment["TORCHELASTIC_ERROR_FILE"])
    if own is not None:
        yield own


def worker_files(folder: str) -> dict[int, str]:
    """Where each of torchrun's workers, by local rank, records its error; those of the newest start."""
    starts = glob.glob(os.path.join(glob.escape(folder), "*", "attempt_*"))
    if not starts:
        return {}
    newest = max(starts, key=os.path.getmtime)
    ranks = sorted(int(name) for name in os.listdir(newest) if name.isdigit())
    return {rank: os.path.join(newest, str(rank), "error.json") for rank in ranks}


def read_error(path: str, rank: int | None = None) -> Error | None:
    """The error in a file of torch's; None where there is none, or it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file)["message"]
        recorded = os.stat(path).st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(said, dict):
        return Error(str(said), "", recorded, rank)
    extra = said.get("extraInfo")
    callstack = str(extra.get("py_callstack", "")) if isinstance(extra, dict) else ""
    return Error(str(said.get("message", "")), callstack, recorded, rank)


def judge(end: End, errors: Sequence[Error], silent: bool = False) -> Verdict:
    """What the end means: the earliest error with a cause of its own, unless the program was told to stop before it.

    `silent` where a worker of this pod recorded nothing. The lost peer may be that one: torchrun's summary in the log
    knows how it ended.
    """
    if end.code == DONE:
        return Verdict(DONE)
    own = [error for error in errors if not error.message.startswith("SignalException")]
    cause = min(own, key=lambda error: (symptom(error) is PEER_LOST, error.time), default=None)
    peer_lost = cause is not None and symptom(cause) is PEER_LOST
    if end.stopped is not None and (cause is None or peer_lost or cause.time > end.stopped):
        return told_to_stop(end)
    if cause is None or (peer_lost and silent):
        return Verdict(end.code, None, peer_lost)
    return Verdict(end.code, failed(failure(cause, end.code)), peer_lost)


def symptom(error: Error) -> Symptom | None:
    return next((known for known in SYMPTOMS if re.search(known.pattern, error.message)), None)


def told_to_stop(end: End) -> Verdict:
    """torchrun ends with 1 when it is told to stop, which would look like a fault of the program."""
    code = PREEMPTED if end.code == PREEMPTED else TERMINATED
    message = "asked to stop, and did not in time: its stacks are in the log" if end.late else "asked to stop"
    found = {"class": "Preempted", "reason": "Preempted", "message": message, "exitCode": code}
    return Verdict(code, {"outcome": "Preempted", "failure": found})


def not_started(program: str, error: OSError) -> Verdict:
    missing = error.errno == errno.ENOENT
    code = NOT_FOUND if missing else CANNOT_EXECUTE
    found = {
        "class": "ConfigError",
        "reason": "ProgramNotFound" if missing else "ProgramNotExecutable",
        "message": f"spec.trainer.command: {program} cannot be run: {error.strerror}",
        "hint": "name a program that is in the image's PATH, or its whole path",
        "exitCode": code,
    }
    return Verdict(code, failed(found))


def failed(found: dict[str, Any]) -> dict[str, Any]:
    return {"outcome": "Failed", "failure": found}


def failure(cause: Error, code: int) -> dict[str, Any]:
    """The error as a Failure, with the end of its traceback as the log's tail."""
    known = symptom(cause)
    name = re.match(r"(?:\w+\.)*(\w+)(?::|$)", cause.message)
    message = cause.message.strip() or "an error without a message"
    found = {
        "class": known.class_ if known else "CodeError",
        "reason": known.reason if known else name.group(1)[:128] if name else "Exception",
        "message": (message if cause.rank is None else f"rank {cause.rank}: {message}")[:2048],
        "hint": known.hint if known else "its traceback is in the log",
        "rank": cause.rank,
        "exitCode": code,
        "logTail": "\n".join(cause.callstack.splitlines()[-TAIL_LINES:]),
    }
    return {field: value for field, value in found.items() if value not in (None, "")}


def conclude(verdict: Verdict) -> int:
    """Leave the outcome as the termination message; the exit code goes through."""
    if verdict.outcome is not None:
        found = verdict.outcome["failure"]
        print(f"{found['class']} ({found['reason']}): {found['message']}", file=sys.stderr)
        try:
            with open(os.environ.get("FINETUNE_TERMINATION_LOG", "/dev/termination-log"), "wb") as file:
                file.write(termination_message(verdict.outcome))
        except OSError as error:
            print(f"launch.py: the termination message cannot be written: {error}", file=sys.stderr)
    return verdict.code


def termination_message(outcome: Mapping[str, Any]) -> bytes:
    """JSON of at most MOST_BYTES: the start of the log's tail is cut first, then the end of the message."""
    found = dict(outcome["failure"])
    while True:
        text = json.dumps({**outcome, "failure": found}, ensure_ascii=False).encode("utf-8", "replace")
        if len(text) <= MOST_BYTES:
            return text
        if found.get("logTail"):
            found["logTail"] = found["logTail"][max(1, len(found["logTail"]) // 16) :]
        else:
            found["message"] = found["message"][: -max(1, len(found["message"]) // 16)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
