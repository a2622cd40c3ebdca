"""s3://, gs:// and az://: the folder of a run below a prefix, and a manifest that says when it is whole.

`manifest.json` has the hash of each file and is written last: without it nothing there is to be trusted. While a push
is under way `manifest.partial.json` says what has arrived, so that the next attempt sends only the rest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.stores import ADDRESS, CREDENTIALS, METADATA_SERVERS
from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.pushing.content import Content, File
from finetune_trainer.pushing.places import SECRET_FIELD, Place, Pushed

if TYPE_CHECKING:
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
PARTIAL = "manifest.partial.json"
PROBE = ".finetune-write-check"
RETRIES = 3
RETRY_SECONDS = 60
CONNECT_SECONDS = 5
REQUEST_SECONDS = 300
PART = 8 << 20
"""Bytes of a part of a large file, and what is worth a note in the partial manifest."""
MOST_PARTS = 9_000
"""S3 takes 10,000."""

Entries = dict[str, dict[str, Any]]
"""Hash and size of files by name."""


def check(place: Place) -> None:
    """Write an object and take it away again."""
    prefix = _prefix(place)
    with _explained(place):
        store = _open(place)
        store.put(prefix + PROBE, b"may be removed\n")
        with suppress(Exception):  # some are allowed to write and not to delete
            store.delete(prefix + PROBE)


def push(place: Place, content: Content) -> Pushed:
    """The files below the prefix, and the manifest; files of an older push that are no longer there are removed."""
    found, prefix = content.as_run(place.whole), _prefix(place)
    entries: Entries = {file.name: {"sha256": file.sha256, "size": file.size} for file in found}
    manifest = _document({"version": "v1", "created": content.created, "provenance": content.provenance()}, entries)
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    with _explained(place):
        store = _open(place)
        _send(store, prefix, found, entries, manifest)
    return Pushed(place.uri.rstrip("/"), digest)


def _send(store: ObjectStore, prefix: str, found: Sequence[File], entries: Entries, manifest: bytes) -> None:
    sizes, former = _sizes(store, prefix), _read(store, prefix + MANIFEST)
    if former == manifest and all(sizes.get(name) == entry["size"] for name, entry in entries.items()):
        return
    known = _entries(former) | _entries(_read(store, prefix + PARTIAL))
    there = {name: entry for name, entry in entries.items() if known.get(name) == entry == _sized(entry, sizes, name)}
    store.put(prefix + PARTIAL, _document({}, there))
    _remove(store, prefix, [MANIFEST, *(known.keys() - entries.keys())], sizes)
    for file in found:
        if file.name not in there:
            store.put(prefix + file.name, file.path, chunk_size=max(PART, -(-file.size // MOST_PARTS)))
            there[file.name] = entries[file.name]
            if file.size > PART:
                store.put(prefix + PARTIAL, _document({}, there))
    store.put(prefix + MANIFEST, manifest)
    try:
        store.delete(prefix + PARTIAL)
    except Exception as error:  # some are allowed to write and not to delete
        log.warning("%s stays in the store: %s", PARTIAL, str(error).partition("\n")[0])


def _sized(entry: Mapping[str, Any], sizes: Mapping[str, int], name: str) -> dict[str, Any]:
    """The entry with the size that the store tells."""
    return {**entry, "size": sizes.get(name)}


def _remove(store: ObjectStore, prefix: str, names: Sequence[str], sizes: Mapping[str, int]) -> None:
    if gone := [prefix + name for name in names if name in sizes]:
        store.delete(gone)


def _document(about: Mapping[str, Any], entries: Entries) -> bytes:
    return (json.dumps({**about, "files": entries}, indent=2, sort_keys=True) + "\n").encode()


def _entries(document: bytes | None) -> Entries:
    """The files that a manifest lists; none if it is not there or not one of ours."""
    try:
        return dict(json.loads(document or b"{}").get("files", {}))
    except (ValueError, AttributeError, TypeError):
        return {}


def _read(store: ObjectStore, key: str) -> bytes | None:
    try:
        return bytes(store.get(key).bytes())
    except FileNotFoundError:
        return None


def _sizes(store: ObjectStore, prefix: str) -> dict[str, int]:
    """The objects below the prefix, by their names there."""
    found = [meta for page in store.list(prefix or None) for meta in page]
    return {meta["path"].removeprefix(prefix): meta["size"] for meta in found}


def _bucket(place: Place) -> str:
    return place.uri.partition("://")[2].partition("/")[0]


def _prefix(place: Place) -> str:
    """What all keys begin with: empty, or it ends with a slash. Raises ConfigError if it leads out of itself."""
    path = place.uri.partition("://")[2].partition("/")[2].strip("/")
    if ".." in PurePosixPath(path).parts or "//" in path:
        message = f"{place.field}: {place.uri} is no path of a store"
        raise ConfigError("InvalidUri", message, "write it without .. and //")
    return f"{path}/" if path else ""


def _open(place: Place) -> ObjectStore:
    """The bucket; plain HTTP is allowed, as only an endpoint that the environment names can ask for it."""
    from obstore.store import from_url

    return from_url(
        f"{place.scheme}://{_bucket(place)}",
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """The store's errors in our words."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        raise _in_our_words(error, place) from error


def _in_our_words(error: Exception, place: Place) -> RunError:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    status = next(iter(re.findall(r"status code: (\d{3})", text)), None)
    code = next(iter(re.findall(r"<Code>(\w+)</Code>", text)), status)
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in ("401", "403")
    if denied or any(server in text for server in METADATA_SERVERS):
        message = f"{place.field}: the store does not let us write to {place.uri}" + (f": {code}" if code else "")
        hint = f"name a Secret with {CREDENTIALS[place.scheme]} in {SECRET_FIELD}, and see what they allow"
        return AuthError("NotAllowed", message, hint)
    hint = f"check {ADDRESS[place.scheme]}"
    if status == "404" or isinstance(error, FileNotFoundError):
        message = f"{place.field}: the store has no {_bucket(place)}" + (f": {code}" if code else "")
        return ConfigError("NotFound", message, hint)
    message = f"{place.field}: the store did not take {place.uri}: {text.partition(chr(10))[0]}"
    sent = "Error performing" in text or "HTTP error" in text
    if sent and (status is None or status >= "500" or status in ("408", "429")):
        return Unavailable("StoreUnavailable", message, f"see that the store can be reached, and {hint}")
    return ConfigError("Refused", message, f"{hint}, and the credentials")
