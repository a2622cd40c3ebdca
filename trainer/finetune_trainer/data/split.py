"""Splitting by content: a row's side follows from the seed and the row's own input, so that it keeps its side when
other rows come or go, and two rows with the same input never stand on two sides. Rows may also be split by a column of
groups, which are never parted either, or by time (`times`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Any

import numpy
from numpy.typing import NDArray

from finetune_trainer.data.columns import as_text
from finetune_trainer.data.media import Media, plain
from finetune_trainer.data.rows import PlaceArray, Row, Rows
from finetune_trainer.errors import DataError


class Side(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Assigned:
    """The side of each row, as its number in `order`, and how many rows were moved so that no side lacks something.

    `units` is how many inputs, or groups, each side has.
    """

    order: Sequence[Side]
    sides: NDArray[numpy.int8]
    moved: int
    units: Mapping[Side, int]

    def places(self) -> dict[Side, PlaceArray]:
        return {side: numpy.flatnonzero(self.sides == number) for number, side in enumerate(self.order)}


def split(
    rows: Sequence[Row],
    inputs: Sequence[str],
    label: str | None,
    seed: int,
    shares: Mapping[Side, float],
    stratified: Collection[Side],
) -> dict[Side, Rows]:
    """The rows of each side, in their order: see `by_input`."""
    every = Rows.of(rows)
    sides = by_input(every, inputs, label, seed, shares, stratified).places()
    return {side: every.take(places) for side, places in sides.items()}


def by_input(
    rows: Sequence[Row],
    inputs: Sequence[str],
    label: str | None,
    seed: int,
    shares: Mapping[Side, float],
    stratified: Collection[Side],
) -> Assigned:
    """Sides by the rows' inputs. `shares` says which part of them each held-out side gets.

    `label` is the role of the classes, None if the task has none. Each label's share is kept in expectation. On the
    `stratified` sides, and for training, no label with enough different inputs is missing, which moves single rows of
    rare labels; only those can change sides when rows come. Several labels of a row count as one.
    """
    order = [Side.TRAIN, *shares]
    covered = [Side.TRAIN, *(side for side in shares if side in stratified)] if stratified and label is not None else []
    hashes, labels = hashed(rows, inputs, label if covered else None, seed)

    def cover(sides: NDArray[numpy.int8], first: NDArray[numpy.intp]) -> None:
        if covered:
            _cover_labels(sides, labels[first], [order.index(side) for side in covered], order)

    return _assigned(hashes, shares, cover)


def by_group(rows: Sequence[Row], column: str, field: str, seed: int, shares: Mapping[Side, float]) -> Assigned:
    """Sides by the rows' cells in `column`: all rows of a group are on one side.

    A side without a group takes one from the side that has most, so that few groups are enough; only those can change
    sides when rows come. Raises DataError for a row without a group.
    """
    order = [Side.TRAIN, *shares]

    def cover(sides: NDArray[numpy.int8], first: NDArray[numpy.intp]) -> None:  # noqa: ARG001
        sides[:] = _cover(sides, range(len(order)), order)

    return _assigned(group_hashes(rows, column, field, seed), shares, cover)


def _assigned(
    hashes: NDArray[numpy.uint64],
    shares: Mapping[Side, float],
    cover: Callable[[NDArray[numpy.int8], NDArray[numpy.intp]], None],
) -> Assigned:
    """Sides by hashes; `cover` may move units, which it gets with the first row of each, in the order of hashes."""
    units, first, members = numpy.unique(hashes, return_index=True, return_inverse=True)
    before = _sides(units, shares)
    after = before.copy()
    cover(after, first)
    order = [Side.TRAIN, *shares]
    counts = {side: int((after == number).sum()) for number, side in enumerate(order)}
    return Assigned(order, after[members], int((before != after)[members].sum()), counts)


def hashed(
    rows: Sequence[Row], inputs: Sequence[str], label: str | None, seed: int, tag: str = ""
) -> tuple[NDArray[numpy.uint64], NDArray[numpy.int32]]:
    """The hash of each row's inputs, another one for another `tag`, and the number of its label."""
    hashes, labels = numpy.empty(len(rows), dtype=numpy.uint64), numpy.zeros(len(rows), dtype=numpy.int32)
    known: dict[tuple[str, ...], int] = {}
    for place, row in enumerate(rows):
        values = [identity(row.values[role]) for role in inputs if role in row.values]
        hashes[place] = hash_of([*values, tag] if tag else values, seed)
        if label is not None:
            value = row.values[label]
            labels[place] = known.setdefault(tuple(sorted(value)) if isinstance(value, tuple) else (value,), len(known))
    return hashes, labels


def group_hashes(rows: Sequence[Row], column: str, field: str, seed: int) -> NDArray[numpy.uint64]:
    """The hash of each row's group. Raises DataError, naming `field`, for a row that has none."""
    hashes = numpy.empty(len(rows), dtype=numpy.uint64)
    for place, row in enumerate(rows):
        group = as_text(row.extra[column])
        if group is None:
            message = f"{row.place}: column {column!r} ({field}) is empty"
            raise DataError("EmptyValue", message, "name the group that the row belongs to, or remove the row")
        hashes[place] = hash_of([group], seed)
    return hashes


def hash_of(inputs: Sequence[Any], seed: int) -> int:
    """A number of 64 bits for an input, values that JSON can hold: uniform, and the same on every machine."""
    text = json.dumps([seed, *inputs], ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def identity(value: Any) -> Any:
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
