"""Checkpoints that are whole or not there, and the fence that keeps a superseded attempt from publishing.

A checkpoint is a folder `step-N` with a manifest of sizes and hashes. It is written under another name, synced, and
renamed. Beside them lie the weights of the best evaluations in folders `best-N`, made in the same way: they stay as
long as a checkpoint that is kept was written when they were among the best, so that whoever resumes from it finds them.
This module knows nothing of what is in one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune_api.run import JobIdentity
from finetune_trainer import heartbeat
from finetune_trainer.errors import Preempted, Unavailable
from finetune_trainer.files import files_below, read_json, remove, sha256_of, sync, write_json
from finetune_trainer.storage import writing

FENCE = "FENCE"
MANIFEST = "manifest.json"
PREFIX = "step-"
BEST = "best-"
TEMPORARY = ".tmp-"
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
    """The checkpoints of one run in one folder, written by one attempt at a time."""

    def __init__(self, folder: Path, owner: Owner, fingerprint: str, keep_last: int) -> None:
        self.folder = folder
        self.owner = owner
        self.fingerprint = fingerprint
        self.keep_last = keep_last

    def publish(self, step: int, write: Callable[[Path], None], best: Sequence[int] = ()) -> Path:
        """Save what `write` puts into the folder it is given as `step-N`, unless that is there and whole.

        `best` are the steps whose evaluations were the best until now. Raises Preempted if a later attempt has claimed
        the store, Unavailable if it cannot be written, StorageFull if it is full.
        """
        return self._publish(f"{PREFIX}{step}", step, write, best)

    def publish_best(self, step: int, write: Callable[[Path], None], best: Sequence[int]) -> Path:
        """The same for the weights of an evaluation, `best-N`, which is now one of those that are the `best`."""
        return self._publish(f"{BEST}{step}", step, write, best)

    def best(self, step: int) -> Path | None:
        """The whole weights of the evaluation at `step`."""
        path = self.folder / f"{BEST}{step}"
        return path if self._flaw(path) is None else None

    def forget_after(self, step: int) -> None:
        """Remove the weights of evaluations after the step that is resumed from: they will be made again."""
        for path in self._all(BEST):
            if step_of(path) > step:
                remove(path)

    def _publish(self, name: str, step: int, write: Callable[[Path], None], best: Sequence[int]) -> Path:
        final = self.folder / name
        temporary = self.folder / f"{TEMPORARY}{final.name}-{os.getpid()}"
        with _store_errors(self.folder, self.owner):
            if final.exists() and self._flaw(final) is None:
                return final
            self._write(temporary, step, write, best)
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

    def _write(self, temporary: Path, step: int, write: Callable[[Path], None], best: Sequence[int]) -> None:
        """A whole checkpoint, or nothing: what is left of one would take the room that others need."""
        temporary.mkdir()
        try:
            write(temporary)
            self._seal(temporary, step, best)
        except Exception:
            remove(temporary)
            raise

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
            heartbeat.beat()
            sync(path)
            files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        manifest = {"step": step, "fingerprint": self.fingerprint, "best": list(best), "files": files}
        write_json(folder / MANIFEST, manifest)
        sync(folder)

    def _flaw(self, folder: Path) -> str | None:
        """Why `folder` cannot be resumed from; None if it can."""
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict):
            return "it has no readable manifest"
        if manifest.get("fingerprint") != self.fingerprint:
            return "it belongs to a run of another configuration, data or model"
        for name, known in manifest["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != known["bytes"]:
                return f"{name} is not whole"
            if sha256_of(path) != known["sha256"]:
                return f"{name} is not what was written"
        return None


def _read_fence(folder: Path) -> Owner | None:
    value = read_json(folder / FENCE)
    return Owner(**value) if isinstance(value, dict) else None


def _superseded(by: Owner | None) -> Preempted:
    who = f"run {by.run}, attempt {by.attempt}" if by else "someone who removed the fence"
    return Preempted("Superseded", f"the checkpoints now belong to {who}; this attempt publishes nothing more")


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
