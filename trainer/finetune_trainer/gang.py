"""The ranks of this pod: started together, ended together."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

Launch = Callable[[Mapping[str, str]], int]
"""Starts one rank with this environment and returns its process id."""

Hangs = Callable[[Mapping[int, int]], bool]
"""Whether the ranks that are running, process ids by rank, are to be ended because they stand still."""

PEER_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL for the peers of a dead rank: they cannot go on without it."""
KILL_SECONDS = 5.0
"""How long to wait for ranks to end that were killed: one that is stuck in the kernel does not."""
POLL = 0.05


def spawn(environment: Mapping[str, str]) -> int:
    """A rank as a process of its own. Its own process group keeps a terminal's Ctrl-C from it: we forward that."""
    command = [sys.executable, "-m", "finetune_trainer.rank"]
    return os.posix_spawn(sys.executable, command, environment, setpgroup=0, setsigdef=[signal.SIGTERM, signal.SIGINT])


class Gang:
    """The ranks of this pod by process id, and how they ended, in that order."""

    def __init__(self, environments: Sequence[Mapping[str, str]], launch: Launch) -> None:
        self.ended: dict[int, int] = {}
        self.ended_by_us: set[int] = set()
        self._running: dict[int, int] = {}
        for environment in environments:
            self._running[launch(environment)] = int(environment["RANK"])

    def wait(
        self,
        exits_orderly: Sequence[int],
        should_stop: Callable[[], bool],
        grace: float,
        hangs: Hangs = lambda running: False,  # noqa: ARG005
    ) -> None:
        """Until every rank has ended, and with them orphans that became ours.

        When asked to stop, the ranks get SIGTERM and `grace` seconds. A rank that ends with a code not in
        `exits_orderly` takes its peers with it. Ranks that stand still are killed at once, unless they are ending.
        """
        kill_at = float("inf")
        stopping = collapsing = False
        while self._running:
            self._reap()
            now = time.monotonic()
            if should_stop() and not stopping:
                stopping = True
                kill_at = min(kill_at, now + grace)
                self._send(signal.SIGTERM)
            if not collapsing and any(code not in exits_orderly for code in self.ended.values()):
                collapsing = True
                kill_at = min(kill_at, now + PEER_GRACE)
                self._send(signal.SIGTERM)
            if not (stopping or collapsing) and hangs({rank: pid for pid, rank in self._running.items()}):
                self._kill_and_leave()
                return
            if now >= kill_at:
                self.ended_by_us |= set(self._running.values())
                self._send(signal.SIGKILL)
            time.sleep(POLL)

    def _kill_and_leave(self) -> None:
        self.ended_by_us |= set(self._running.values())
        self._send(signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        while self._running and time.monotonic() < deadline:
            self._reap()
            time.sleep(POLL)

    def kill(self) -> None:
        """End every rank at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._running:
                    self.ended[self._running.pop(pid)] = os.waitstatus_to_exitcode(status)
