"""Texts that are nearly equal: most of their runs of words are the same (Broder 1997).

MinHash makes candidates of rows that share a band of their signatures, which datasketch chooses for the threshold; then
the runs themselves are compared, so that no row is taken for another by chance. A row costs 8 bytes a band.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy
from numpy.typing import NDArray

from finetune_trainer.data.clean.texts import as_one
from finetune_trainer.data.rows import Row, Rows
from finetune_trainer.data.split import hash_of, identity

PERMUTATIONS = 128
SEED = 1
WORDS = 3
"""Words of a run."""
CHARACTERS = 5
"""Characters of a run where a text has too few words: of a short one, or of a language without blanks."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Compared:
    """The roles whose texts may differ a little, and those that must be equal."""

    texts: tuple[str, ...]
    equal: tuple[str, ...]

    def shingles(self, row: Row) -> frozenset[str]:
        """The runs of words of all texts, in small letters and without punctuation."""
        return frozenset(run for role in self.texts if role in row.values for run in _runs(as_one(row.values[role])))

    def rest(self, row: Row) -> int:
        return hash_of([identity(row.values[role]) for role in self.equal if role in row.values], SEED)


def _runs(text: str) -> Iterator[str]:
    words = WORD.findall(text.casefold())
    if len(words) >= WORDS:
        return (" ".join(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
    joined = " ".join(words)
    return (joined[start : start + CHARACTERS] for start in range(max(len(joined) - CHARACTERS, 0) + 1))


def nearly_equal(rows: Rows, compared: Compared, threshold: float, kept: int = 0) -> NDArray[numpy.bool_]:
    """Which rows are nearly equal to an earlier one that is not; the first `kept` rows are never."""
    bands = _bands(rows, compared, threshold)
    found = numpy.zeros(len(rows), dtype=bool)
    earlier: dict[int, list[int]] = defaultdict(list)

    @lru_cache(maxsize=4096)
    def shingles(place: int) -> frozenset[str]:
        return compared.shingles(rows[place])

    for place in numpy.flatnonzero(_shared(bands)).tolist():
        others = sorted({other for band in bands[place].tolist() for other in earlier[band]})
        if place >= kept and any(similarity(shingles(place), shingles(other)) >= threshold for other in others):
            found[place] = True
            continue
        for band in bands[place].tolist():
            earlier[band].append(place)
    return found


def similarity(one: frozenset[str], another: frozenset[str]) -> float:
    """The share of common runs among all runs of both."""
    return len(one & another) / len(one | another)


def _bands(rows: Rows, compared: Compared, threshold: float) -> NDArray[numpy.uint64]:
    """A hash for each band of each row's signature; rows that differ in what must be equal share none."""
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]

    layout = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    found = numpy.empty((len(rows), layout.b), dtype=numpy.uint64)
    first = MinHash(num_perm=PERMUTATIONS, seed=SEED)
    for place, row in enumerate(rows):
        signature = first.copy()
        signature.update_batch([run.encode("utf-8", "surrogatepass") for run in compared.shingles(row)])
        rest = compared.rest(row).to_bytes(8)
        for band in range(layout.b):
            part = signature.hashvalues[band * layout.r : (band + 1) * layout.r].tobytes()
            digest = hashlib.blake2b(band.to_bytes(2) + rest + part, digest_size=8).digest()
            found[place, band] = int.from_bytes(digest)
    return found


def _shared(bands: NDArray[numpy.uint64]) -> NDArray[numpy.bool_]:
    """Which rows have a band that another row has, too."""
    shared = numpy.zeros(len(bands), dtype=bool)
    for column in bands.T:
        _, members, counts = numpy.unique(column, return_inverse=True, return_counts=True)
        shared |= counts[members] > 1
    return shared
