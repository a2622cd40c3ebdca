"""Where every thread of a process stands: told on request, whatever it is doing, also where native code is stuck."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ASK = signal.SIGUSR1
PATIENCE = 3.0
"""Seconds in which a process that can answer has answered."""
QUIET = 0.1
"""Seconds without a further line after which an answer is whole."""
FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$', re.MULTILINE)
OWN = "finetune_trainer"
IMPORT = "<frozen importlib"


def answer(scratch: Path, rank: int) -> None:
    """From now on SIGUSR1 writes the stacks of this process's threads to its file in `scratch`."""
    file = _file(scratch, rank).open("w")
    faulthandler.register(ASK, file=file, all_threads=True)  # which keeps the file open


def collect(scratch: Path, ranks: Mapping[int, int]) -> dict[int, str]:
    """The stacks of the ranks with these process ids, by rank; of one that does not answer what the kernel says."""
    before = {rank: _size(scratch, rank) for rank in ranks}
    for rank, pid in ranks.items():
        if _file(scratch, rank).exists():
            with suppress(ProcessLookupError):
                os.kill(pid, ASK)
    _settle(scratch, before)
    return {rank: _said(scratch, rank, before[rank]) or _state(pid) for rank, pid in ranks.items()}


def _settle(scratch: Path, before: Mapping[int, int]) -> None:
    """Wait until all have answered, and nobody goes on to write; no longer than PATIENCE."""
    deadline, seen = time.monotonic() + PATIENCE, dict(before)
    while time.monotonic() < deadline:
        time.sleep(QUIET)
        now = {rank: _size(scratch, rank) for rank in before}
        if now == seen and all(now[rank] > before[rank] for rank in before):
            return
        seen = now


def _file(scratch: Path, rank: int) -> Path:
    return scratch / f"stacks-{rank}"


def _size(scratch: Path, rank: int) -> int:
    path = _file(scratch, rank)
    return path.stat().st_size if path.exists() else 0


def _said(scratch: Path, rank: int, start: int) -> str:
    path = _file(scratch, rank)
    return path.read_bytes()[start:].decode(errors="replace").strip() if path.exists() else ""


def _state(pid: int) -> str:
    """What is known of a process that cannot run its signal handler."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return f"process {pid} is gone"
    state = next((line.partition(":")[2].strip() for line in status.splitlines() if line.startswith("State:")), "?")
    return f"process {pid} does not answer; its state is {state}"


def show(stacks: Mapping[int, str]) -> None:
    """Print the stacks of the ranks, each line with its rank, and then our own."""
    for rank, text in stacks.items():
        for line in text.splitlines():
            print(f"[rank {rank}] {line}", file=sys.stderr)
    show_own()


def show_own() -> None:
    """Print the stacks of this process."""
    print("[supervisor]", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)


def place(stack: str) -> str | None:
    """`file:line in function` of the innermost line of ours that the signalled thread, the main one, stands in."""
    found = _frames(stack)
    own = [frame for frame in found if OWN in frame["file"]] or found
    if not own:
        return None
    return f"{own[0]['file'].rpartition('/')[2]}:{own[0]['line']} in {own[0]['function']}"


def traceback(stack: str) -> str:
    """The stack of that thread with the innermost call last, as whoever cuts a text from its beginning keeps it."""
    lines = [frame[0] for frame in reversed(_frames(stack)) if IMPORT not in frame[0]]
    return "\n".join(["(most recent call last):", *lines]) if lines else stack


def _frames(stack: str) -> list[re.Match[str]]:
    _, current, frames = stack.partition("Current thread ")
    return list(FRAME.finditer(frames.partition("\n\n")[0] if current else stack))
