"""Remote files and folders: downloaded once a run into a folder that the supervisor and its ranks share."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import ssl
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from finetune_api.fields import uri_scheme
from finetune_trainer.data import stores
from finetune_trainer.errors import ConfigError, DataError, RunError, Unavailable
from finetune_trainer.files import files_below

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
ENV_DOWNLOADS = "FINETUNE_DOWNLOADS"
"""The folder of the downloads; one that goes with the process, where it is not set."""
SCHEMES = ("https", *stores.SCHEMES)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
IGNORED = (".", "__MACOSX")
"""How the names of entries begin that archives have for their own sake."""
SECONDS = 30.0
"""Without a byte from an HTTPS server."""


def fetch(uri: str, field_path: str) -> Path:
    """The file or folder that a remote URI names, downloaded if this run has not done so. An archive is its content.

    Raises ConfigError, DataError or Unavailable, naming `field_path`.
    """
    if ".." in PurePosixPath(unquote(urlsplit(uri).path)).parts:
        raise ConfigError("InvalidUri", f"{field_path}: {uri} leaves its folder", "write the path without ..")
    folder = _downloads() / hashlib.sha256(uri.encode()).hexdigest()[:16]
    if not folder.exists():
        _fill(folder, uri, field_path)
    return _content(folder)


def _downloads() -> Path:
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
        downloaded = Path(temporary, "downloaded")
        downloaded.mkdir()
        try:
            _download(uri, downloaded, field_path)
            content = _unpacked(downloaded, uri, field_path)
        except OSError as error:
            message = f"{field_path}: cannot store {uri} in {folder.parent}: {error.strerror or error}"
            raise Unavailable("NoSpace", message, "see that there is space for the download and its content") from error
        files = files_below(content)
        size = sum(path.stat().st_size for path in files)
        content.rename(folder)
    seconds = time.monotonic() - started
    log.info("downloaded %s: %d files, %.1f MB in %.1f s", uri, len(files), size / 1e6, seconds)


def _download(uri: str, folder: Path, field_path: str) -> None:
    if uri_scheme(uri) in stores.SCHEMES:
        stores.download(uri, folder, field_path)
    else:
        _download_https(uri, folder / _name(uri), field_path)


def _name(uri: str) -> str:
    return PurePosixPath(unquote(urlsplit(uri).path)).name or "download"


def _content(folder: Path) -> Path:
    """The one file or folder in a download; the download itself, if an archive holds several."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(IGNORED)]
    return entries[0] if len(entries) == 1 else folder


def _unpacked(downloaded: Path, uri: str, field_path: str) -> Path:
    """What a downloaded archive holds, beside it; everything else as it is."""
    archive, content = _content(downloaded), downloaded.with_name("unpacked")
    if not archive.is_file() or not archive.name.lower().endswith(ARCHIVES):
        return downloaded
    try:
        if archive.suffix.lower() == ".zip":
            shutil.unpack_archive(archive, content, "zip")
        else:
            with tarfile.open(archive) as members:
                members.extractall(content, filter="data")
    except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        message = f"{field_path}: {uri} is not an archive that can be unpacked: {error}"
        raise DataError("BrokenArchive", message, f"archives that work: {', '.join(ARCHIVES)}") from error
    return content


def _download_https(uri: str, target: Path, field_path: str) -> None:
    import httpx

    hooks = {"request": [_refuse_http]}
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=SECONDS, event_hooks=hooks) as client,
            client.stream("GET", uri, headers={"Accept-Encoding": "identity"}) as response,
            target.open("wb") as file,
        ):
            if not response.is_success:
                raise _refused(response.status_code, uri, field_path)
            for chunk in response.iter_bytes():
                file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise _failed(error, uri, field_path) from error


def _refuse_http(request: httpx.Request) -> None:
    """A server may not send us on to where anybody can change what we read."""
    import httpx

    if request.url.scheme != "https":
        raise httpx.UnsupportedProtocol(f"redirected to {request.url.scheme}://{request.url.host}")


def _refused(status: int, uri: str, field_path: str) -> RunError:
    answer = f"{field_path}: {uri}: the server answered {status}"
    if status in (401, 403):
        return ConfigError(
            "NotAllowed", answer, "use a link that needs no login, or a store with a Secret in secretRef"
        )
    if status in (404, 410):
        return ConfigError("NotFound", f"{field_path}: {uri} does not exist", "check the link")
    if status < 500 and status not in (408, 429):
        return ConfigError("Refused", answer, "check the link")
    return Unavailable("StoreUnavailable", answer, "try again later")


def _failed(error: Exception, uri: str, field_path: str) -> RunError:
    import httpx

    message = f"{field_path}: {uri} could not be downloaded: {error}"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return ConfigError("NotTrusted", message, "name the file with the server's CA in SSL_CERT_FILE")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.TooManyRedirects):
        return ConfigError("InvalidUri", message, "give a link that leads to the file by https")
    return Unavailable("StoreUnavailable", message, "see that the server can be reached")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
