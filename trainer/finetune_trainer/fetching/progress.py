"""A line in the log now and then while a download takes long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)
SECONDS = 10.0


@contextmanager
def told(uri: str, done: Callable[[], int], total: int | None = None) -> Iterator[None]:
    """Say every SECONDS how many bytes of `uri` are here: `done` counts them."""
    over = threading.Event()
    thread = threading.Thread(target=_tell, args=(uri, done, total, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tell(uri: str, done: Callable[[], int], total: int | None, over: threading.Event) -> None:
    before, last = done(), time.monotonic()
    while not over.wait(SECONDS):
        count, now = done(), time.monotonic()
        speed = max(0, count - before) / (now - last)
        share = f" of {megabytes(total)} ({100 * count // total} %)" if total else ""
        log.info("downloading %s: %s%s, %s/s", uri, megabytes(count), share, megabytes(speed))
        before, last = count, now


def bytes_below(folder: Path) -> int:
    """How many bytes are in the files of a folder, also while they come and go."""
    return sum(_size(path) for path in folder.rglob("*"))


def megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() else 0
    except OSError:
        return 0
