"""Object stores: s3://, gs:// and az:// by obstore, with errors that say whether a retry can help.

Credentials and endpoints come from the environment as in each store's own tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from finetune_api.fields import uri_scheme
from finetune_trainer.errors import ConfigError, RunError, Unavailable, nearest

if TYPE_CHECKING:
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
METADATA_SERVERS = ("169.254.169.254", "metadata.google.internal")
"""Who is asked for credentials where the environment has none: outside of the cloud nobody answers."""
RETRIES = 3
RETRY_SECONDS = 30
CONNECT_SECONDS = 5
PARALLEL = 8
CHUNK = 8 << 20


def download(uri: str, folder: Path, field_path: str) -> None:
    """Put what `uri` names into `folder` under its own name: an object, or all below a prefix.

    Raises ConfigError if it is not there or not allowed, Unavailable if the store does not answer.
    """
    bucket, key = _parts(uri)
    with _explained(uri, field_path):
        store = _open(f"{uri_scheme(uri)}://{bucket}")
        keys = [key] if not uri.endswith("/") and _is_object(store, key) else _below(store, key)
        if not keys:
            raise ConfigError("NotFound", f"{field_path}: {uri} does not exist", _neighbours(store, key))
        base, top = PurePosixPath(key), folder / (PurePosixPath(key).name or bucket)
        targets = {name: top / PurePosixPath(name).relative_to(base) for name in keys}
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda name: _save(store, name, targets[name]), keys))


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


def _is_object(store: ObjectStore, key: str) -> bool:
    if not key:
        return False
    try:
        store.head(key)
    except FileNotFoundError:
        return False
    return True


def _below(store: ObjectStore, prefix: str) -> list[str]:
    """The objects below a prefix, without the empty ones that some tools make for folders."""
    found = [meta for page in store.list(prefix or None) for meta in page]
    folders = {str(parent) for meta in found for parent in PurePosixPath(meta["path"]).parents}
    return [meta["path"] for meta in found if meta["size"] or meta["path"] not in {*folders, prefix}]


def _save(store: ObjectStore, key: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for chunk in store.get(key).stream(min_chunk_size=CHUNK):
            file.write(chunk)


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
    except (BaseError, FileNotFoundError) as error:
        raise _in_our_words(error, uri, field_path) from error


def _in_our_words(error: Exception, uri: str, field_path: str) -> RunError:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text, scheme = str(error), uri_scheme(uri)
    status = next(iter(re.findall(r"status code: (\d{3})", text)), None)
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in ("401", "403")
    if denied or any(server in text for server in METADATA_SERVERS):
        hint = f"name a Secret with {CREDENTIALS[scheme]} in secretRef, and check them"
        return ConfigError("NotAllowed", f"{field_path}: the store does not give out {uri}", hint)
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
