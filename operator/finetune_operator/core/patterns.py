"""Regular expressions that cannot stall the operator: RE2's time grows with the text, whatever the pattern."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol, cast

import re2  # type: ignore[import-untyped]


class Match(Protocol):
    def start(self) -> int: ...
    def end(self) -> int: ...
    def group(self, group: int = 0) -> str | None: ...
    def groups(self) -> tuple[str | None, ...]: ...


class Pattern(Protocol):
    def search(self, text: str) -> Match | None: ...
    def sub(self, repl: str, text: str) -> str: ...
    def finditer(self, text: str) -> Iterator[Match]: ...


class InvalidPattern(ValueError):
    """A pattern that RE2 does not take; the message says why."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Pattern:
    """`pattern`, ready to search. Raises InvalidPattern."""
    options = re2.Options()
    options.log_errors = False
    try:
        return cast(Pattern, re2.compile(pattern, options))
    except re2.error as error:
        said = error.args[0] if error.args else "not a regular expression"
        raise InvalidPattern(said.decode() if isinstance(said, bytes) else str(said)) from error


def search(pattern: str, text: str) -> Match | None:
    """The first match of `pattern` in `text`. Raises InvalidPattern."""
    return compiled(pattern).search(clean(text))


def clean(text: str) -> str:
    """`text` without half characters, which RE2 cannot read."""
    return text.encode(errors="replace").decode()
