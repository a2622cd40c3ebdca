"""Finding the text that belongs to an image among all texts, and the other way round."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

AMONG = (1, 5, 10)
CHUNK = 1024
"""Queries whose similarities to every candidate are held in memory at once."""


def retrieval(images: numpy.ndarray, texts: numpy.ndarray, same: Sequence[Hashable] | None = None) -> dict[str, float]:
    """image_to_text_recall@k, text_to_image_recall@k (k = 1, 5, 10) and the median rank in both directions.

    Row i of both matrices, shape (rows, dimensions), belongs together; similarity is their scalar product. `same`
    tells which rows are equally right, for example their captions: without it each row has one right answer. A wrong
    candidate ranks before the right one unless it is less similar, so a model that maps everything to one point, or to
    NaN, finds nothing. A k that is not below the number of rows says nothing and is left out.
    """
    import numpy

    groups = numbered(range(len(images)) if same is None else same)
    values: dict[str, float] = {}
    for name, queries, candidates in (("image_to_text", images, texts), ("text_to_image", texts, images)):
        if not len(queries):
            continue
        found = ranks(queries, candidates, groups)
        values |= {f"{name}_recall@{k}": float((found <= k).mean()) for k in AMONG if k < len(candidates)}
        values[f"{name}_median_rank"] = float(numpy.median(found))
    return values


def ranks(
    queries: numpy.ndarray, candidates: numpy.ndarray, groups: numpy.ndarray, own: numpy.ndarray | None = None
) -> numpy.ndarray:
    """The place, from 1, of each query's best right candidate: one of the query's own group.

    `groups` has the candidates' groups, `own` those of the queries where they are not the same rows.
    """
    import numpy

    own = groups if own is None else own
    parts = []
    for start in range(0, len(queries), CHUNK):
        similar = queries[start : start + CHUNK] @ candidates.T
        right = own[start : start + CHUNK, None] == groups[None]
        best = numpy.where(right, similar, -numpy.inf).max(-1, keepdims=True)
        parts.append(1 + (~right & ~(similar < best)).sum(-1))
    return numpy.concatenate(parts)


def numbered(values: Sequence[Hashable]) -> numpy.ndarray:
    """A number for each value, the same for equal ones."""
    import numpy

    numbers: dict[Hashable, int] = {}
    return numpy.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=numpy.int64)
