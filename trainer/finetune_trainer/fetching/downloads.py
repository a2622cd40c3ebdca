"""What a run uses of the shared folder: pinned when it was first looked for, the same for every later attempt.

The pins are a JSON file that programs may read: key of the source → {path, revision, digest, bytes}.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from finetune_api.run import RunConfig
from finetune_trainer import files
from finetune_trainer.errors import ConfigError
from finetune_trainer.fetching.lock import locked
from finetune_trainer.fetching.objects import Objects
from finetune_trainer.fetching.progress import megabytes
from finetune_trainer.fetching.words import not_stored

log = logging.getLogger(__name__)
UMASK = 0o002
"""The pods that share a volume have its group in common, not the user."""


@dataclass(frozen=True)
class Pin:
    """A source as this run uses it. `revision` is a commit, or what else its server calls a version."""

    path: Path
    revision: str
    digest: str
    bytes: int


def pins_file(config: RunConfig) -> Path | None:
    """The file with a run's pins; None if it keeps nothing. `finetune run` has it in the run's folder."""
    if config.cache_folder is None:
        return None
    if config.base_folder is not None:
        return Path(config.fold.folder if config.fold else config.folder, "sources.json")
    return Path(config.cache_folder, "runs", f"{config.job.uid}-{config.job.run}.json")


@dataclass(frozen=True)
class Downloads:
    """The shared folder, and the file with what this run uses of it."""

    folder: Path
    pins: Path

    @classmethod
    def of(cls, config: RunConfig) -> Self | None:
        """None for a run that keeps nothing."""
        pins = pins_file(config)
        return None if config.cache_folder is None or pins is None else cls(Path(config.cache_folder), pins)

    @property
    def objects(self) -> Objects:
        return Objects(self.folder)

    @property
    def hub(self) -> Path:
        """The cache of the hub's library, as HF_HUB_CACHE names it."""
        return self.folder / "hub"

    def get(
        self,
        key: str,
        field_path: str,
        find: Callable[[Pin | None], Pin],
        usable: Callable[[Pin], bool] = lambda pin: pin.path.exists(),
        place: str | None = None,
    ) -> Pin:
        """What this run uses as `key`: pinned before and `usable`, with no request; otherwise what `find` gets now.

        `find` is told of a pin whose files are gone, and must get the same. Meanwhile no other job works on `place`, or
        on the key if that is None. Raises ConfigError if a pinned content is no longer to be had, StorageFull,
        Unavailable, and whatever `find` raises.
        """
        pin = self._pinned(key)
        if pin is not None and usable(pin):
            return pin
        title = f"{field_path}: {key}"
        with self._writing(key, field_path), locked(self.pins.with_suffix(".lock"), title):
            pin = self._pinned(key)
            if pin is not None and usable(pin):
                return pin
            with locked(self._lock(place or key), title):
                found = find(pin)
            if pin is not None and found.digest != pin.digest:
                raise _changed(key, field_path, pin)
            self._pin(key, found)
        log.info("%s is %s, %s, in %s", key, found.revision, megabytes(found.bytes), self.folder)
        return found

    def _pinned(self, key: str) -> Pin | None:
        told: Any = (files.read_json(self.pins) or {}).get(key)
        return None if told is None else Pin(Path(told["path"]), told["revision"], told["digest"], told["bytes"])

    def _pin(self, key: str, pin: Pin) -> None:
        self.pins.parent.mkdir(parents=True, exist_ok=True)
        known = files.read_json(self.pins) or {}
        files.write_json(self.pins, {**known, key: {**asdict(pin), "path": str(pin.path)}})

    def _lock(self, name: str) -> Path:
        return self.folder / "locks" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"

    @contextmanager
    def _writing(self, key: str, field_path: str) -> Iterator[None]:
        """In this block files are made for the group, and the disk's errors are explained."""
        before = os.umask(UMASK)
        try:
            yield
        except OSError as error:
            raise not_stored(error, key, self.folder, field_path) from error
        finally:
            os.umask(before)


def _changed(key: str, field_path: str, pin: Pin) -> ConfigError:
    message = f"{field_path}: {key} was {pin.revision} when this run began; that is no longer in the cache"
    hint = "put that version back, or start a new run"
    return ConfigError("InputChanged", f"{message}, and the source has changed", hint)
