"""Web servers: https:// by httpx, with errors that say whether a retry can help."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.fetching.words import causes

if TYPE_CHECKING:
    import httpx

SECONDS = 30.0
"""Without a byte from a server."""
NOT_MODIFIED, PARTIAL = 304, 206


@dataclass(frozen=True)
class Answer:
    """What a server says of a URI. `version` is what it calls this content; None if it has no word for it."""

    version: str | None
    unchanged: bool
    start: int
    size: int | None
    response: httpx.Response

    def save(self, target: Path) -> None:
        """The bytes from `start` on into the file `target`, which has those before."""
        with target.open("r+b" if target.exists() else "wb") as file:
            file.seek(self.start)
            for chunk in self.response.iter_bytes():
                file.write(chunk)
            file.truncate()


@contextmanager
def asked(uri: str, field_path: str, known: str | None = None, part: tuple[str, int] | None = None) -> Iterator[Answer]:
    """One request for what `uri` names, unless that is still the version `known`.

    `part` is a version and how many bytes of it are here: the server sends the rest if it still has that version.
    Raises AuthError, ConfigError or Unavailable, naming `field_path`.
    """
    import httpx

    headers = {"Accept-Encoding": "identity", **_condition(known), **_range(part)}
    hooks = {"request": [_refuse_http]}
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=SECONDS, event_hooks=hooks) as client,
            client.stream("GET", uri, headers=headers) as response,
        ):
            if not response.is_success and response.status_code != NOT_MODIFIED:
                raise _refused(response.status_code, uri, field_path)
            yield _answer(response, part)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise _failed(error, uri, field_path) from error


def _condition(known: str | None) -> dict[str, str]:
    if known is None:
        return {}
    return {"If-None-Match": known} if _is_tag(known) else {"If-Modified-Since": known}


def _range(part: tuple[str, int] | None) -> dict[str, str]:
    """Only a strong tag or a time says that bytes are the same (RFC 9110, If-Range).

    The last byte comes once more: to ask for none is an error.
    """
    if part is None or part[0].startswith("W/") or not part[1]:
        return {}
    return {"Range": f"bytes={part[1] - 1}-", "If-Range": part[0]}


def _is_tag(version: str) -> bool:
    return version.startswith(('"', "W/"))


def _answer(response: httpx.Response, part: tuple[str, int] | None) -> Answer:
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    start = part[1] - 1 if part is not None and response.status_code == PARTIAL else 0
    length = response.headers.get("Content-Length")
    size = start + int(length) if length is not None and length.isdecimal() else None
    return Answer(version, response.status_code == NOT_MODIFIED, start, size, response)


def _refuse_http(request: httpx.Request) -> None:
    """A server may not send us on to where anybody can change what we read."""
    import httpx

    if request.url.scheme != "https":
        raise httpx.UnsupportedProtocol(f"redirected to {request.url.scheme}://{request.url.host}")


def _refused(status: int, uri: str, field_path: str) -> RunError:
    answer = f"{field_path}: {uri}: the server answered {status}"
    if status in (401, 403):
        return AuthError("NotAllowed", answer, "use a link that needs no login, or a store with a Secret in secretRef")
    if status in (404, 410):
        return ConfigError("NotFound", f"{field_path}: {uri} does not exist", "check the link")
    if status < 500 and status not in (408, 429):
        return ConfigError("Refused", answer, "check the link")
    return Unavailable("StoreUnavailable", answer, "try again later")


def _failed(error: Exception, uri: str, field_path: str) -> RunError:
    import httpx

    message = f"{field_path}: {uri} could not be downloaded: {error}"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error)):
        return ConfigError("NotTrusted", message, "name the file with the server's CA in SSL_CERT_FILE")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.TooManyRedirects):
        return ConfigError("InvalidUri", message, "give a link that leads to the file by https")
    return Unavailable("StoreUnavailable", message, "see that the server can be reached")
