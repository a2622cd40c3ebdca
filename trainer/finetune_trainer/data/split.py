"""Splitting by content: a row's side follows from the seed and the row's own input, so that it keeps its side when
other rows come or go, and two rows with the same input never stand on two sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Any

import numpy
from numpy.typing import NDArray

from finetune_trainer.data.media import Media, plain
from finetune_trainer.data.rows import PlaceArray, Row, Rows


class Side(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def split(
    rows: Sequence[Row],
    inputs: Sequence[str],
    label: str | None,
    seed: int,
    shares: Mapping[Side, float],
    stratified: Collection[Side],
) -> dict[Side, Rows]:
    """The rows of each side, in their order: see `places_by_side`."""
    every = Rows.of(rows)
    sides = places_by_side(every, inputs, label, seed, shares, stratified)
    return {side: every.take(places) for side, places in sides.items()}


def places_by_side(
    rows: Sequence[Row],
    inputs: Sequence[str],
    label: str | None,
    seed: int,
    shares: Mapping[Side, float],
    stratified: Collection[Side],
) -> dict[Side, PlaceArray]:
    """Where among `rows` the rows of each side stand. `shares` says which part of them each held-out side gets.

    `label` is the role of the classes, None if the task has none. Each label's share is kept in expectation. On the
    `stratified` sides, and for training, no label with enough different inputs is missing, which moves single rows of
    rare labels; only those can change sides when rows come. Several labels of a row count as one.
    """
    order = [Side.TRAIN, *shares]
    covered = [Side.TRAIN, *(side for side in shares if side in stratified)] if stratified and label is not None else []
    hashes, labels = _hashed(rows, inputs, label if covered else None, seed)
    inputs_there, first, members = numpy.unique(hashes, return_index=True, return_inverse=True)
    sides = _sides(inputs_there, shares)
    if covered:
        _cover_labels(sides, labels[first], [order.index(side) for side in covered], order)
    found = sides[members]
    return {side: numpy.flatnonzero(found == number) for number, side in enumerate(order)}


def _hashed(
    rows: Sequence[Row], inputs: Sequence[str], label: str | None, seed: int
) -> tuple[NDArray[numpy.uint64], NDArray[numpy.int32]]:
    """The hash of each row's inputs, and the number of its label."""
    hashes, labels = numpy.empty(len(rows), dtype=numpy.uint64), numpy.zeros(len(rows), dtype=numpy.int32)
    known: dict[tuple[str, ...], int] = {}
    for place, row in enumerate(rows):
        hashes[place] = _hash_of([_identity(row.values[role]) for role in inputs if role in row.values], seed)
        if label is not None:
            value = row.values[label]
            labels[place] = known.setdefault(tuple(sorted(value)) if isinstance(value, tuple) else (value,), len(known))
    return hashes, labels


def _hash_of(inputs: Sequence[Any], seed: int) -> int:
    """A number of 64 bits for an input, values that JSON can hold: uniform, and the same on every machine."""
    text = json.dumps([seed, *inputs], ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _identity(value: Any) -> Any:
    """What makes two inputs the same: of an image or a sound its bytes, not its name."""
    return value.sha256 if isinstance(value, Media) else plain(value)


def _sides(hashes: NDArray[numpy.uint64], shares: Mapping[Side, float]) -> NDArray[numpy.int8]:
    """The side of each input by its hash: 0 is training, then the sides of `shares`."""
    places = hashes.astype(numpy.float64) / 2.0**64
    sides = numpy.zeros(len(hashes), dtype=numpy.int8)
    edges = list(accumulate(shares.values()))
    for number in range(len(edges), 0, -1):
        sides[places < edges[number - 1]] = number
    return sides


def _cover_labels(
    sides: NDArray[numpy.int8], labels: NDArray[numpy.int32], covered: Sequence[int], order: Sequence[Side]
) -> None:
    """Move inputs so that each label has one on every side of `covered`; inputs stand in the order of their hashes."""
    by_label = numpy.argsort(labels, kind="stable")
    for members in numpy.split(by_label, numpy.flatnonzero(numpy.diff(labels[by_label])) + 1):
        sides[members] = _cover(sides[members], covered, order)


def _cover(now: NDArray[numpy.int8], covered: Sequence[int], order: Sequence[Side]) -> NDArray[numpy.int8]:
    """New sides for the inputs of one label, so that each side has one, training first.

    A side that lacks one takes it from the side that has most, the lowest position first.
    """
    for side in covered:
        counts = numpy.bincount(now, minlength=len(order))
        if counts[side]:
            continue
        richest = max(range(len(order)), key=lambda other: (counts[other], order[other]))
        if counts[richest] > 1 or order[side] is Side.TRAIN:
            now[numpy.argmax(now == richest)] = side
    return now
