"""Object stores: s3://, gs:// and az:// by obstore, with errors that say whether a retry can help.

Credentials and endpoints come from the environment as in each store's own tools.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from finetune_api.fields import uri_scheme
from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable, nearest
from finetune_trainer.fetching.words import secret_of

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
CREDENTIALS: Mapping[str, str] = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
ADDRESS: Mapping[str, str] = {
    "s3": "the bucket's name, AWS_REGION and AWS_ENDPOINT_URL",
    "gs": "the bucket's name",
    "az": "the container's name and AZURE_STORAGE_ACCOUNT_NAME",
}
ENDPOINTS: Mapping[str, tuple[str, ...]] = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME"),
}
"""Variables that say which bucket of that name is meant; the first that is set counts."""
METADATA_SERVERS = ("169.254.169.254", "metadata.google.internal")
"""Who is asked for credentials where the environment has none: outside of the cloud nobody answers."""
RETRIES = 3
RETRY_SECONDS = 30
CONNECT_SECONDS = 5
PARALLEL = 8
CHUNK = 8 << 20
PART = ".unfinished"
"""How the name of a file ends that is not whole yet; it begins with a dot."""


class Incomplete(Exception):
    """An object came with other than its bytes."""


@dataclass(frozen=True)
class Item:
    """An object of a store: its key, its bytes, and what changes with its content."""

    key: str
    size: int
    version: str


@dataclass(frozen=True)
class Listing:
    """What a URI names now: an object, or all below a prefix."""

    uri: str
    field_path: str
    store: ObjectStore
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    @property
    def version(self) -> str:
        """The one object's own version, or a hash over all keys, sizes and versions."""
        if len(self.items) == 1:
            return self.items[0].version
        told = "".join(f"{item.key}\0{item.size}\0{item.version}\n" for item in self.items)
        return f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"

    def save(self, folder: Path) -> None:
        """Put it into `folder` under its own name. What an earlier try left there is gone on with.

        Raises Unavailable if the store does not answer, or something changed since it was listed.
        """
        bucket, key = _parts(self.uri)
        base, top = PurePosixPath(key), folder / (PurePosixPath(key).name or bucket)
        targets = [(item, top / PurePosixPath(item.key).relative_to(base)) for item in self.items]
        with _explained(self.uri, self.field_path):
            _in_parallel(lambda stop, item, target: _save(self.store, item, target, stop), targets)


def place_of(uri: str) -> str:
    """The URI with what else says where it leads to: the same bucket's name may be another's elsewhere."""
    where = next((os.environ[name] for name in ENDPOINTS[uri_scheme(uri)] if os.environ.get(name)), "")
    return f"{uri} at {where}" if where else uri


def look(uri: str, field_path: str) -> Listing:
    """What `uri` names. Raises ConfigError if it is not there, AuthError or Unavailable if the store says so."""
    bucket, key = _parts(uri)
    with _explained(uri, field_path):
        store = _open(f"{uri_scheme(uri)}://{bucket}")
        single = None if uri.endswith("/") else _object(store, key)
        items = [single] if single is not None else _below(store, key)
        if not items:
            raise ConfigError("NotFound", f"{field_path}: {uri} does not exist", _neighbours(store, key))
    return Listing(uri, field_path, store, tuple(sorted(items, key=lambda item: item.key)))


def _parts(uri: str) -> tuple[str, str]:
    """Bucket and key; a key may have any character, so it is no URL's path."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key.strip("/")


def _open(url: str) -> ObjectStore:
    """The store; plain HTTP is allowed, as only an endpoint that the environment names can ask for it."""
    from obstore.store import from_url

    return from_url(
        url,
        client_options={"allow_http": True, "connect_timeout": timedelta(seconds=CONNECT_SECONDS)},
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def _object(store: ObjectStore, key: str) -> Item | None:
    if not key:
        return None
    try:
        return _item(store.head(key))
    except FileNotFoundError:
        return None


def _below(store: ObjectStore, prefix: str) -> list[Item]:
    """The objects below a prefix, without the empty ones that some tools make for folders."""
    found = [meta for page in store.list(prefix or None) for meta in page]
    folders = {str(parent) for meta in found for parent in PurePosixPath(meta["path"]).parents}
    return [_item(meta) for meta in found if meta["size"] or meta["path"] not in {*folders, prefix}]


def _item(meta: ObjectMeta) -> Item:
    version = meta["e_tag"] or f"{meta['size']} bytes of {meta['last_modified'].isoformat()}"
    return Item(meta["path"], meta["size"], version)


def _in_parallel(work: Callable[[threading.Event, Item, Path], None], targets: Sequence[tuple[Item, Path]]) -> None:
    """Do it for all; when one fails, or we are interrupted, the others stop at their next chunk."""
    stop, pool = threading.Event(), ThreadPoolExecutor(PARALLEL)
    try:
        for done in as_completed([pool.submit(work, stop, item, target) for item, target in targets]):
            done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _save(store: ObjectStore, item: Item, target: Path, stop: threading.Event) -> None:
    """Whole under its name or not there; a part of the same object stays beside it, to go on from."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}{PART}")
    start = part.stat().st_size if part.exists() else 0
    with part.open("ab") as file:
        for chunk in _chunks(store, item, start):
            file.write(chunk)
            if stop.is_set():
                return
    if part.stat().st_size != item.size:
        part.unlink()
        raise Incomplete(f"{item.key} came as other than its {item.size} bytes")
    part.rename(target)


def _chunks(store: ObjectStore, item: Item, start: int) -> Iterator[bytes]:
    """The bytes from `start` on, of the version that was listed."""
    if start >= item.size > 0:
        return
    wanted: GetOptions = {"range": {"offset": start}} if start else {}
    if item.version.startswith('"'):
        wanted["if_match"] = item.version
    yield from store.get(item.key, options=wanted).stream(min_chunk_size=CHUNK)


def _neighbours(store: ObjectStore, key: str) -> str:
    """What there is beside `key`."""
    parent, name = str(PurePosixPath(key).parent), PurePosixPath(key).name
    listed = store.list_with_delimiter(None if parent == "." else parent)
    paths = [*listed["common_prefixes"], *(meta["path"] for meta in listed["objects"])]
    where = "the store" if parent == "." else parent
    return nearest(name, [PurePosixPath(path).name for path in paths], f"in {where} there are")


@contextmanager
def _explained(uri: str, field_path: str) -> Iterator[None]:
    """The store's errors in our words."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, Incomplete) as error:
        raise _in_our_words(error, uri, field_path) from error


def _in_our_words(error: Exception, uri: str, field_path: str) -> RunError:
    from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

    text, scheme = str(error), uri_scheme(uri)
    if isinstance(error, PreconditionError | Incomplete):
        message = f"{field_path}: {uri} changed while it was read: {text.partition(chr(10))[0]}"
        return Unavailable("Changed", message, "try again when nobody writes to it")
    status = next(iter(re.findall(r"status code: (\d{3})", text)), None)
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in ("401", "403")
    if denied or any(server in text for server in METADATA_SERVERS):
        hint = f"name a Secret with {CREDENTIALS[scheme]} in {secret_of(field_path)}, and check them"
        return AuthError("NotAllowed", f"{field_path}: the store does not give out {uri}", hint)
    hint = f"check {ADDRESS[scheme]}"
    if status == "404":
        code = next(iter(re.findall(r"<Code>(\w+)</Code>", text)), status)
        return ConfigError("NotFound", f"{field_path}: the store has no {_parts(uri)[0]}: {code}", hint)
    first_line = text.partition("\n")[0]
    message = f"{field_path}: the store did not give {uri}: {first_line}"
    if _can_pass(text, status):
        return Unavailable("StoreUnavailable", message, f"see that the store can be reached, and {hint}")
    return ConfigError("Refused", message, f"{hint}, and the credentials")


def _can_pass(text: str, status: str | None) -> bool:
    """Whether another attempt may do better: no answer, or one that says so. Nothing was sent: bad settings."""
    sent = "Error performing" in text or "HTTP error" in text
    return sent and (status is None or status >= "500" or status in ("408", "429"))
