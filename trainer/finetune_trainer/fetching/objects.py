"""What was downloaded from stores and web servers, by its content: the same content lies here once.

    objects/<sha256>/content/…      whole, never changed; `whole.json` beside it was written before the rename
    known/<place>.json              which content a place had at which version, as it told
    unfinished/<place>/             a download that has not come to its end, of one version

A place is a URI with what else decides where it leads to. Each place is worked on under a lock of its caller.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import files

WHOLE = "whole.json"
CONTENT = "content"
VERSION = "version"
VERSIONS_KEPT = 20
IGNORED = (".", "__MACOSX")
"""How the names of entries begin that archives have for their own sake."""


@dataclass(frozen=True)
class Stored:
    """A content that is here: the one file or folder in it, the SHA-256 over its names and bytes, and its bytes."""

    path: Path
    digest: str
    bytes: int


def only_entry(folder: Path) -> Path:
    """The one file or folder in a download; the download itself, if there are several."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(IGNORED)]
    return entries[0] if len(entries) == 1 else folder


class Objects:
    """The contents in `folder`. Every method may raise OSError, where the disk does not do its part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, place: str, version: str) -> Stored | None:
        """What `place` had at `version`, if that is here and whole; it counts as used now."""
        digest = self._versions(place).get(version)
        return None if digest is None else self._read(digest)

    def newest(self, place: str) -> tuple[str, Stored] | None:
        """The version that was last seen at `place`, and its content, if that is here and whole."""
        version = next(reversed(self._versions(place)), None)
        stored = self.find(place, version) if version is not None else None
        return None if version is None or stored is None else (version, stored)

    def unfinished(self, place: str) -> tuple[str | None, Path]:
        """The version of a download that was not finished, and its folder, which may not be there."""
        folder = self.folder / "unfinished" / _key(place)
        try:
            return (folder / VERSION).read_text(encoding="utf-8") or None, folder
        except OSError:
            return None, folder

    def begin(self, place: str, version: str | None) -> Path:
        """The folder for a download of `version`: with what is there of it already, else empty."""
        before, folder = self.unfinished(place)
        if version is None or before != version:
            files.remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_atomic(folder / VERSION, version or "")
        return folder

    def finish(self, place: str, version: str | None, content: Path) -> Stored:
        """Keep what lies in `content`, a folder in that of the download, as what `place` has at `version`."""
        found = {str(path.relative_to(content)): path for path in files.files_below(content)}
        digest = files.digest_of(found)
        if self._read(digest) is None:
            self._keep(digest, content, list(found.values()))
        files.remove(self.unfinished(place)[1])
        if version is not None:
            self._remember(place, version, digest)
        stored = self._read(digest)
        if stored is None:
            raise OSError(f"what was just written to {self._object(digest)} is not there")
        return stored

    def _keep(self, digest: str, content: Path, paths: list[Path]) -> None:
        whole, target = content.parent / "object", self._object(digest)
        files.remove(whole)
        whole.mkdir()
        size = sum(path.stat().st_size for path in paths)
        for path in paths:
            files.sync(path)
        content.rename(whole / CONTENT)
        files.write_json(whole / WHOLE, {"files": len(paths), "bytes": size})
        files.remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another place has the same content, and was faster
            _rename(whole, target)
        files.sync(target.parent)

    def _read(self, digest: str) -> Stored | None:
        """An object whose files are as many and as long as they were written."""
        folder = self._object(digest)
        told: Any = files.read_json(folder / WHOLE)
        if not isinstance(told, dict):
            return None
        sizes = [path.stat().st_size for path in files.files_below(folder / CONTENT)]
        if (len(sizes), sum(sizes)) != (told.get("files"), told.get("bytes")):
            return None
        with suppress(OSError):
            os.utime(folder / WHOLE)
        return Stored(only_entry(folder / CONTENT), digest, sum(sizes))

    def _object(self, digest: str) -> Path:
        return self.folder / "objects" / digest

    def _versions(self, place: str) -> dict[str, str]:
        """Version to content, the newest last."""
        known: Any = files.read_json(self._known(place))
        return dict(known["versions"]) if isinstance(known, dict) else {}

    def _remember(self, place: str, version: str, digest: str) -> None:
        versions = {name: value for name, value in self._versions(place).items() if name != version}
        newest = list(versions.items())[-(VERSIONS_KEPT - 1) :]
        self._known(place).parent.mkdir(parents=True, exist_ok=True)
        files.write_json(
            self._known(place), {"place": place.partition("?")[0], "versions": {**dict(newest), version: digest}}
        )

    def _known(self, place: str) -> Path:
        return self.folder / "known" / f"{_key(place)}.json"


def _key(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def _rename(source: Path, target: Path) -> None:
    """As Path.rename, which says ENOTEMPTY where a folder is there already."""
    try:
        source.rename(target)
    except OSError as error:
        if target.exists():
            raise FileExistsError(str(target)) from error
        raise
