"""One process does the work, the others wait for it and say so.

The lock is the kernel's (flock): it goes with the process that holds it, however that ends. On NFS it works across
nodes from version 4 on, and goes when the server no longer hears from a node.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api import names
from finetune_trainer.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger(__name__)
ENV_SECONDS = "FINETUNE_CACHE_LOCK_SECONDS"
SECONDS = 2 * 3600.0
"""Longest wait for another process."""
TELL_SECONDS = 30.0
POLL_SECONDS = 0.25
MODE = 0o666
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, title: str) -> Iterator[None]:
    """Nobody else holds the lock meanwhile; its file says who does. `title` begins what is said of a wait.

    Raises Unavailable if another process holds it for too long, ConfigError where the volume has no locks.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, mode=MODE, poll_interval=POLL_SECONDS, fallback_to_soft=False, on_acquired=_sign)
    _acquire(lock, path, title)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, title: str) -> None:
    from filelock import Timeout

    started, patience, turn = time.monotonic(), _patience(), POLL_SECONDS
    while True:
        left = started + patience - time.monotonic()
        try:
            lock.acquire(timeout=max(0.0, min(turn, left)))
        except Timeout:
            if left <= turn:
                raise _too_long(path, title, patience) from None
            log.info("%s: waiting for %s, which downloads it", title, _holder(path))
            turn = TELL_SECONDS
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            message = f"{title}: the volume of {path.parent} has no file locks: {error.strerror}"
            raise ConfigError("NoLocks", message, "use a volume with POSIX locks, such as NFS 4") from error
        else:
            return


def _too_long(path: Path, title: str, patience: float) -> Unavailable:
    hint = f"see whether that still works; {ENV_SECONDS} says how long others wait"
    return Unavailable("Locked", f"{title}: {_holder(path)} has been downloading it for {patience:.0f} s", hint)


def _sign(descriptor: int) -> None:
    name = os.environ.get(names.ENV_POD_NAME) or f"process {os.getpid()} on {socket.gethostname()}"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, name.encode(), 0)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def _patience() -> float:
    try:
        return float(os.environ.get(ENV_SECONDS) or SECONDS)
    except ValueError:
        log.warning("%s is %s, which is no number; %g is taken", ENV_SECONDS, os.environ[ENV_SECONDS], SECONDS)
        return SECONDS
