"""A volume that is full: the same fault, in the words of every library that writes."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_trainer.errors import StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT)
WORDS = re.compile(
    r"no space left on device|not enough free space|disk quota exceeded|disk is full|os error (28|122)\b"
    r"|\d+ requested and \d+ written",
    re.IGNORECASE,
)
"""safetensors, shutil, SQLite and numpy, which have no errno."""
ZIP_WRITER = "inline_container"
"""torch's writer hides what went wrong: that is the error while which it was raised."""


def is_full(error: BaseException | None) -> bool:
    """Whether it says that a volume, or our share of it, is full."""
    if error is None:
        return False
    if getattr(error, "errno", None) in FULL or WORDS.search(str(error)):
        return True
    return is_full(error.__context__ if ZIP_WRITER in str(error) else error.__cause__)


def storage_full(
    error: BaseException, what: str, where: Path | str | None = None, hint: str | None = None
) -> StorageFull:
    """`error` as one of ours: `what` could not be written, to `where`."""
    place = where or getattr(error, "filename", None)
    to = f" to {place}" if place else ""
    quota = getattr(error, "errno", None) == errno.EDQUOT or "quota" in str(error).lower()
    why = "the quota is used up" if quota else "no space is left on its volume"
    return StorageFull(
        "StorageFull", f"cannot write {what}{to}: {why}", hint or "make room there, or enlarge the volume"
    )


@contextmanager
def writing(what: str, where: Path, hint: str | None = None) -> Iterator[None]:
    """In this block a full volume is told as StorageFull; every other error passes."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise storage_full(error, what, where, hint) from error
        raise
