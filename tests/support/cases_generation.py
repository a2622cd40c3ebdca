"""The matrix's cases of generation."""

from __future__ import annotations

from support.matrix import Case

CASES: tuple[Case, ...] = ()
