"""Remote files and folders: from stores and web servers into a folder here.

That is the folder that jobs share, where the run has one (see `fetching`), and otherwise one of this run, which the
supervisor and its ranks share.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from finetune_api.fields import uri_scheme
from finetune_trainer.data import stores, web
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.fetching.downloads import Downloads, Pin
from finetune_trainer.fetching.objects import Objects, Stored, only_entry
from finetune_trainer.fetching.progress import bytes_below, megabytes, told
from finetune_trainer.fetching.words import not_stored
from finetune_trainer.files import files_below

log = logging.getLogger(__name__)
ENV_DOWNLOADS = "FINETUNE_DOWNLOADS"
"""The folder of a run's own downloads; one that goes with the process, where it is not set."""
SCHEMES = ("https", *stores.SCHEMES)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
DOWNLOADED, UNPACKED = "downloaded", "unpacked"


def fetch(uri: str, field_path: str, downloads: Downloads | None = None) -> Path:
    """The file or folder that a remote URI names, downloaded unless it is here. An archive is its content.

    Raises ConfigError, AuthError, DataError, StorageFull or Unavailable, naming `field_path`.
    """
    if ".." in PurePosixPath(unquote(urlsplit(uri).path)).parts:
        raise ConfigError("InvalidUri", f"{field_path}: {uri} leaves its folder", "write the path without ..")
    if downloads is not None:
        objects = downloads.objects
        return downloads.get(uri, field_path, lambda _: _kept(objects, uri, field_path)).path
    folder = _own_downloads() / hashlib.sha256(uri.encode()).hexdigest()[:16]
    if not folder.exists():
        _fill(folder, uri, field_path)
    return only_entry(folder)


def _kept(objects: Objects, uri: str, field_path: str) -> Pin:
    """What the URI names now, from the shared folder if it has that version."""
    keep = _from_web if uri_scheme(uri) == "https" else _from_store
    version, stored = keep(objects, uri, field_path)
    digest = f"sha256:{stored.digest}"
    return Pin(stored.path, version or digest, digest, stored.bytes)


def _from_store(objects: Objects, uri: str, field_path: str) -> tuple[str | None, Stored]:
    listing, place = stores.look(uri, field_path), stores.place_of(uri)
    if (stored := objects.find(place, listing.version)) is not None:
        return listing.version, stored
    folder = objects.begin(place, listing.version)
    downloaded = _files_folder(folder)
    with told(uri, lambda: bytes_below(downloaded), listing.size):
        listing.save(downloaded)
    return listing.version, objects.finish(place, listing.version, _unpacked(downloaded, uri, field_path))


def _from_web(objects: Objects, uri: str, field_path: str) -> tuple[str | None, Stored]:
    newest = objects.newest(uri)
    part_version, folder = objects.unfinished(uri)
    target = folder / DOWNLOADED / _name(uri)
    part = (part_version, target.stat().st_size) if part_version is not None and target.exists() else None
    with web.asked(uri, field_path, newest[0] if newest else None, part) as answer:
        if answer.unchanged and newest is not None:
            return newest
        folder = objects.begin(uri, part_version if answer.start else answer.version)
        downloaded = _files_folder(folder)
        with told(uri, lambda: bytes_below(downloaded), answer.size):
            answer.save(target)
    return answer.version, objects.finish(uri, answer.version, _unpacked(downloaded, uri, field_path))


def _files_folder(folder: Path) -> Path:
    """The folder in a download's that its files go to; what an archive among them holds is not there yet."""
    shutil.rmtree(folder / UNPACKED, ignore_errors=True)
    (folder / DOWNLOADED).mkdir(exist_ok=True)
    return folder / DOWNLOADED


def _own_downloads() -> Path:
    folder = Path(os.environ.get(ENV_DOWNLOADS) or _own_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def _own_folder() -> str:
    folder = tempfile.mkdtemp(prefix="finetune-downloads-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _fill(folder: Path, uri: str, field_path: str) -> None:
    """Download beside the folder and rename, so that it is whole or not there."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as temporary:
        downloaded = _files_folder(Path(temporary))
        try:
            with told(uri, lambda: bytes_below(downloaded)):
                _download(uri, downloaded, field_path)
            content = _unpacked(downloaded, uri, field_path)
        except OSError as error:
            raise not_stored(error, uri, folder.parent, field_path) from error
        files = files_below(content)
        size = sum(path.stat().st_size for path in files)
        content.rename(folder)
    seconds = time.monotonic() - started
    log.info("downloaded %s: %d files, %s in %.1f s", uri, len(files), megabytes(size), seconds)


def _download(uri: str, folder: Path, field_path: str) -> None:
    if uri_scheme(uri) in stores.SCHEMES:
        stores.look(uri, field_path).save(folder)
    else:
        with web.asked(uri, field_path) as answer:
            answer.save(folder / _name(uri))


def _name(uri: str) -> str:
    return PurePosixPath(unquote(urlsplit(uri).path)).name or "download"


def _unpacked(downloaded: Path, uri: str, field_path: str) -> Path:
    """What a downloaded archive holds, beside it; everything else as it is."""
    archive, content = only_entry(downloaded), downloaded.with_name(UNPACKED)
    if not archive.is_file() or not archive.name.lower().endswith(ARCHIVES):
        return downloaded
    try:
        if archive.suffix.lower() == ".zip":
            shutil.unpack_archive(archive, content, "zip")
        else:
            with tarfile.open(archive) as members:
                members.extractall(content, filter="data")
    except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        shutil.rmtree(downloaded, ignore_errors=True)
        message = f"{field_path}: {uri} is not an archive that can be unpacked: {error}"
        raise DataError("BrokenArchive", message, f"archives that work: {', '.join(ARCHIVES)}") from error
    return content
