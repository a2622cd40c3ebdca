"""Checkpoints that are whole or not there, and the fence that keeps a superseded attempt from publishing.

A checkpoint is a folder `step-N` with a manifest of sizes and hashes. It is written under another name, synced, and
renamed. Beside them lie the weights of the best evaluations in folders `best-N`, made in the same way: they stay as
long as a checkpoint that is kept was written when they were among the best, so that whoever resumes from it finds them.
This module knows nothing of what is in one, nor in which thread it works.

Where several processes have a part each, all write into the folder that the main process makes; each leaves a mark when
its part is there, and the main process seals the whole once it has seen them all. They speak through the folder alone:
whoever writes beside a loop may not take part in what the loops do together.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune_api.run import JobIdentity
from finetune_trainer.errors import Preempted, Unavailable
from finetune_trainer.files import files_below, read_json, remove, sha256_of, sync, write_json
from finetune_trainer.storage import writing

Write = Callable[[Path], None]
"""Puts files into the folder that it is given."""
FENCE = "FENCE"
MANIFEST = "manifest.json"
PREFIX = "step-"
BEST = "best-"
TEMPORARY = ".tmp-"
DONE, FAILED = "done", "failed"
"""How the mark ends by which a process says that its part is there, or will never be."""
LOOK_EVERY = 0.05
PEER_SECONDS = 5.0
"""How long the parts of others are waited for once the run is to end with an error."""
MORE_ROOM = "enlarge the volume, or lower spec.checkpoint.keepLast and keepBest"


@dataclass(frozen=True)
class Owner:
    """Whose checkpoints they are: of one attempt of one run of one object."""

    uid: str
    run: int
    attempt: int

    def is_superseded_by(self, other: Owner) -> bool:
        return other.uid == self.uid and (other.run, other.attempt) > (self.run, self.attempt)


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that cannot be resumed from, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that can be resumed from, if any, and the newer ones that cannot."""

    path: Path | None
    rejected: tuple[Rejected, ...]


def step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def expired(steps: Iterable[int], keep_last: int) -> list[int]:
    """Which checkpoints have to go so that the `keep_last` newest stay."""
    return sorted(steps)[:-keep_last]


def owner_of(job: JobIdentity) -> Owner:
    return Owner(job.uid, job.run, job.attempt)


def claim(folder: Path, owner: Owner) -> None:
    """Become the attempt that may publish in `folder`. Raises Preempted if a later attempt already has."""
    with _store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        current = _read_fence(folder)
        if current is not None and owner.is_superseded_by(current):
            raise _superseded(current)
        write_json(folder / FENCE, asdict(owner))
        for leftover in folder.glob(f"{TEMPORARY}*"):
            remove(leftover)


class CheckpointStore:
    """The checkpoints of one run in one folder, written by one attempt at a time.

    `mark` tells the folders of this attempt's processes, the same in all of them, from those of another one.
    """

    def __init__(self, folder: Path, owner: Owner, fingerprint: str, keep_last: int) -> None:
        self.folder = folder
        self.owner = owner
        self.fingerprint = fingerprint
        self.keep_last = keep_last
        self.mark = str(os.getpid())
        self._given_up = threading.Event()
        self._signs = 0

    def publish(self, step: int, write: Write, best: Sequence[int] = (), prefix: str = PREFIX, peers: int = 0) -> Path:
        """Save what `write` puts into the folder it is given as `step-N`, unless that is there and whole.

        With the prefix BEST it holds the weights of an evaluation. `best` are the steps whose evaluations were the best
        until now, `peers` how many other processes contribute. Raises Preempted if a later attempt has claimed the
        store, Unavailable if it cannot be written, StorageFull if it is full.
        """
        final, temporary = self.folder / f"{prefix}{step}", self._temporary(prefix, step)
        with _store_errors(self.folder, self.owner):
            if not peers and final.exists() and self._flaw(final) is None:
                return final
            self._write(temporary, step, write, best, peers)
            if (current := _read_fence(self.folder)) != self.owner:
                remove(temporary)
                raise _superseded(current)
            remove(final)
            temporary.rename(final)
            sync(self.folder)
            for old in expired(map(step_of, self._all()), self.keep_last):
                remove(self.folder / f"{PREFIX}{old}")
            self._remove_worse(best)
        return final

    def contribute(self, step: int, rank: int, write: Write, prefix: str = PREFIX) -> Path:
        """The part of process `rank` in what the main process publishes meanwhile.

        Raises as `publish` does, and Unavailable if the main process does not come to publish it.
        """
        temporary = self._temporary(prefix, step)
        with _store_errors(self.folder, self.owner):
            while not temporary.is_dir():
                if self._given_up.wait(LOOK_EVERY):
                    raise _part_lost("the main process did not begin the checkpoint")
            try:
                self._write_part(temporary, rank, write)
            except Exception as error:
                if not temporary.is_dir():
                    raise _part_lost("the main process gave the checkpoint up") from error
                with suppress(OSError):
                    (temporary / f"rank-{rank}.{FAILED}").touch()
                raise
        return self.folder / f"{prefix}{step}"

    def progress(self) -> object:
        """What changes as long as something is being written or hashed: a sign of work."""
        size = 0
        with suppress(OSError):  # what is written just now may get another name
            size = sum(path.stat().st_size for path in self.folder.glob(f"{TEMPORARY}*/**/*"))
        return self._signs, size

    def give_up(self) -> None:
        """Peers may be gone: their parts are not waited for any longer than it takes to write them."""
        self._given_up.set()

    def best(self, step: int) -> Path | None:
        """The whole weights of the evaluation at `step`."""
        path = self.folder / f"{BEST}{step}"
        return path if self._flaw(path) is None else None

    def forget_after(self, step: int) -> None:
        """Remove the weights of evaluations after the step that is resumed from: they will be made again."""
        for path in self._all(BEST):
            if step_of(path) > step:
                remove(path)

    def _temporary(self, prefix: str, step: int) -> Path:
        return self.folder / f"{TEMPORARY}{prefix}{step}-{self.mark}"

    def _write(self, temporary: Path, step: int, write: Write, best: Sequence[int], peers: int) -> None:
        """A whole checkpoint, or nothing: what is left of one would take the room that others need."""
        temporary.mkdir()
        try:
            write(temporary)
            self._await_parts(temporary, peers)
            self._seal(temporary, step, best)
        except Exception:
            remove(temporary)
            raise

    def _await_parts(self, temporary: Path, peers: int) -> None:
        """Until every other process has left its mark; the marks go. Raises Unavailable if one failed or is gone."""
        until = float("inf")
        while True:
            marks = list(temporary.glob(f"rank-*.{DONE}"))
            if any(temporary.glob(f"rank-*.{FAILED}")) or time.monotonic() > until:
                raise _part_lost("another process could not write its part of the checkpoint")
            if len(marks) == peers:
                break
            if self._given_up.is_set():
                until = min(until, time.monotonic() + PEER_SECONDS)
            time.sleep(LOOK_EVERY)
        for mark in marks:
            mark.unlink()

    def _write_part(self, temporary: Path, rank: int, write: Write) -> None:
        write(temporary)
        for path in files_below(temporary):
            with suppress(FileNotFoundError):  # one of another process, which had another name for a while
                sync(path)
        (temporary / f"rank-{rank}.{DONE}").touch()

    def _remove_worse(self, best: Iterable[int]) -> None:
        """Remove the weights of evaluations that neither the run nor one of its checkpoints counts to the best."""
        needed = set(best)
        for path in self._all():
            manifest = read_json(path / MANIFEST)
            needed |= set(manifest.get("best", ())) if isinstance(manifest, dict) else set()
        for path in self._all(BEST):
            if step_of(path) not in needed:
                remove(path)

    def newest(self) -> Found:
        """The newest whole checkpoint of this very run. A torn or foreign one falls back to the one before."""
        rejected: list[Rejected] = []
        for path in sorted(self._all(), key=step_of, reverse=True):
            if (flaw := self._flaw(path)) is None:
                return Found(path, tuple(rejected))
            rejected.append(Rejected(path.name, flaw))
        return Found(None, tuple(rejected))

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in (*self._all(), *self._all(BEST)):
            remove(path)

    def _all(self, prefix: str = PREFIX) -> Iterator[Path]:
        return (path for path in self.folder.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdecimal())

    def _seal(self, folder: Path, step: int, best: Sequence[int]) -> None:
        """Sync every file and write the manifest over them, last."""
        files = {}
        for path in files_below(folder):
            sync(path)
            files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": self._hash_of(path)}
        manifest = {"step": step, "fingerprint": self.fingerprint, "best": list(best), "files": files}
        write_json(folder / MANIFEST, manifest)
        sync(folder)

    def _flaw(self, folder: Path) -> str | None:
        """Why `folder` cannot be resumed from; None if it can."""
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            return "it has no readable manifest"
        if manifest.get("fingerprint") != self.fingerprint:
            return "it belongs to a run of another configuration, data or model"
        for name, known in manifest["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != known["bytes"]:
                return f"{name} is not whole"
            if self._hash_of(path) != known["sha256"]:
                return f"{name} is not what was written"
        return None

    def _hash_of(self, path: Path) -> str:
        return sha256_of(path, self._sign)

    def _sign(self) -> None:
        self._signs += 1


def _read_fence(folder: Path) -> Owner | None:
    value = read_json(folder / FENCE)
    return Owner(**value) if isinstance(value, dict) else None


def _superseded(by: Owner | None) -> Preempted:
    who = f"run {by.run}, attempt {by.attempt}" if by else "someone who removed the fence"
    return Preempted("Superseded", f"the checkpoints now belong to {who}; this attempt publishes nothing more")


def _part_lost(why: str) -> Unavailable:
    """Never the cause: that is told by the process which has it, and `verdict` looks for another reason than this."""
    return Unavailable("PeerLost", why, "see how the other processes ended")


@contextmanager
def _store_errors(folder: Path, owner: Owner | None = None) -> Iterator[None]:
    """Turns a store that cannot be read or written into Unavailable, a full one into StorageFull.

    A later attempt tidies up what `owner` was writing; then that is the reason.
    """
    try:
        with writing("checkpoints", folder, MORE_ROOM):
            yield
    except OSError as error:
        if owner is not None and (current := _read_fence(folder)) not in (None, owner):
            raise _superseded(current) from error
        message = f"cannot write checkpoints to {folder}: {error.strerror or error}"
        hint = "see that the volume is there and writable"
        raise Unavailable("StoreUnavailable", message, hint) from error
