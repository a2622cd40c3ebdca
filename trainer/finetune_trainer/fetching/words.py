"""What is said of a download that did not work, whatever store it is from."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from finetune_trainer.errors import ConfigError, RunError, StorageFull, Unavailable

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def secret_of(field_path: str) -> str:
    """The field that names the Secret for what `field_path` names."""
    if field_path.startswith("spec.model."):
        return "spec.model.secretRef"
    return f"{field_path.removesuffix('.uri')}.secretRef" if field_path.startswith("spec.") else "secretRef"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it, the last one first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_local(error: BaseException) -> bool:
    """Whether the fault is that of a disk here, and not of who was asked."""
    return _errno(error) in (*FULL, *REFUSED)


def not_stored(error: BaseException, uri: str, folder: Path, field_path: str) -> RunError:
    """Why a download could not be written to `folder`."""
    message = f"{field_path}: cannot store {uri} in {folder}: {getattr(error, 'strerror', None) or error}"
    if _errno(error) in FULL:
        return StorageFull("NoSpace", message, "make the volume larger, or remove what no job uses (docs/cache.md)")
    if _errno(error) in REFUSED:
        hint = "make it writable for the pod's group (podTemplate.spec.securityContext.fsGroup)"
        return ConfigError("NotWritable", message, hint)
    return Unavailable("StoreUnavailable", message, "see that the volume is there and works")


def _errno(error: BaseException) -> int | None:
    """What the kernel said of a file; it may refuse connections by the same numbers. Rust has them in its messages."""
    known = [cause for cause in causes(error) if isinstance(cause, OSError)]
    said = (int(number) for cause in causes(error) for number in re.findall(r"\(os error (\d+)\)", str(cause)))
    numbers = [cause.errno for cause in known if cause.errno in FULL or cause.filename is not None]
    return next((number for number in (*numbers, *said) if number is not None), None)
