"""A folder of results that are worth keeping from run to run, each in a folder of its own, named by what it is made of.

What is half written is never seen under its name, what is torn is made again, and the oldest goes when there is too
much. Processes that want the same thing wait for the first of them to make it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from finetune_trainer import heartbeat
from finetune_trainer.files import files_below, read_json, remove, sync, write_json

log = logging.getLogger(__name__)
T = TypeVar("T")
ENV_CACHE = "FINETUNE_CACHE"
ENV_SIZE = "FINETUNE_CACHE_GIB"
SIZE_GIB = 20.0
WHOLE = "whole.json"
"""Says of every other file of an entry how long it is; written last."""
UNFINISHED = ".unfinished-"
LEFT_SECONDS = 24 * 3600
"""After so long nobody comes back to an unfinished entry."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where results are kept: FINETUNE_CACHE, or the user's folder for caches."""
    if chosen := environment.get(ENV_CACHE):
        return Path(chosen)
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/"), ".cache")
    return Path(home, "finetune")


def most_bytes(environment: Mapping[str, str]) -> int:
    try:
        return int(float(environment.get(ENV_SIZE) or SIZE_GIB) * 2**30)
    except ValueError:
        log.warning("%s is %s, which is no number; %g is taken", ENV_SIZE, environment[ENV_SIZE], SIZE_GIB)
        return int(SIZE_GIB * 2**30)


class Cache:
    """Entries in `folder`, of at most `most` bytes together, the one that was just made apart."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self._most = folder, most

    def get(self, key: str, make: Callable[[Path], None], read: Callable[[Path], T]) -> tuple[T, bool]:
        """What `read` says of the entry, and whether it was there. Where it is not, `make` fills a new folder.

        Raises OSError if the folder cannot be written to, or is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = self.folder / key
        with self._locked(key):
            if (found := _whole(entry, read)) is not None:
                return found, True
            remove(entry)
            self._fill(entry, make)
            self._trim(entry)
            return read(entry), False

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Nobody else makes this entry meanwhile. The lock goes with the process."""
        with (self.folder / f".{key[:16]}.lock").open("w") as file:
            with heartbeat.waiting():  # for whoever makes it
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _fill(self, entry: Path, make: Callable[[Path], None]) -> None:
        unfinished = entry.with_name(f"{UNFINISHED}{entry.name}")
        remove(unfinished)
        unfinished.mkdir()
        try:
            make(unfinished)
            sizes = {str(path.relative_to(unfinished)): path.stat().st_size for path in files_below(unfinished)}
            for name in sizes:
                sync(unfinished / name)
                heartbeat.beat()
            write_json(unfinished / WHOLE, sizes)
            unfinished.rename(entry)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _trim(self, newest: Path) -> None:
        """Remove what was not used for longest. Who reads it just now keeps what is open."""
        for path in self.folder.glob(f"{UNFINISHED}*"):
            if time.time() - _used(path) > LEFT_SECONDS:
                remove(path)
        entries = sorted(self.folder.glob(f"*/{WHOLE}"), key=_used, reverse=True)
        total = 0
        for path in [newest / WHOLE, *(path for path in entries if path.parent != newest)]:
            total += sum((read_json(path) or {}).values())
            if total > self._most and path.parent != newest:
                remove(path.parent)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _whole(entry: Path, read: Callable[[Path], T]) -> T | None:
    """What `read` says of an entry that is there and as long as it should be; it counts as used now."""
    sizes = read_json(entry / WHOLE)
    if not isinstance(sizes, dict):
        return None
    try:
        if any((entry / name).stat().st_size != size for name, size in sizes.items()):
            return None
        found = read(entry)
    except (OSError, ValueError):
        return None
    with suppress(OSError):
        os.utime(entry / WHOLE)
    return found
