"""Splitting by content: a row's side follows from the seed and the row's own input, so that it keeps its side when
other rows come or go, and two rows with the same input never stand on two sides.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any

from finetune_trainer.data.media import Media, plain
from finetune_trainer.data.rows import Row


class Side(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def position(inputs: Sequence[Any], seed: int) -> float:
    """Where an input, values that JSON can hold, falls in [0, 1): uniform, and the same on every machine."""
    text = json.dumps([seed, *inputs], ensure_ascii=False)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / 2.0**64


def split(
    rows: Sequence[Row],
    inputs: Sequence[str],
    label: str | None,
    seed: int,
    shares: Mapping[Side, float],
    stratified: Collection[Side],
) -> dict[Side, list[Row]]:
    """The rows of each side, in their order. `shares` says which part of the rows each held-out side gets.

    `label` is the role of the classes, None if the task has none. Each label's share is kept in expectation. On the
    `stratified` sides, and for training, no label with enough different inputs is missing, which moves single rows of
    rare labels; only those can change sides when rows come. Several labels of a row count as one.
    """
    values = [[_identity(row.values[role]) for role in inputs if role in row.values] for row in rows]
    keys = [json.dumps(value) for value in values]
    positions = {key: position(value, seed) for key, value in zip(keys, values, strict=True)}
    sides = {key: _side(place, shares) for key, place in positions.items()}
    if stratified and label is not None:
        covered = [Side.TRAIN, *(side for side in shares if side in stratified)]
        for group in _by_label(rows, keys, label).values():
            sides |= _cover(sorted(group, key=lambda key: positions[key]), sides, covered)
    result: dict[Side, list[Row]] = {side: [] for side in (Side.TRAIN, *shares)}
    for row, key in zip(rows, keys, strict=True):
        result[sides[key]].append(row)
    return result


def _identity(value: Any) -> Any:
    """What makes two inputs the same: of an image or a sound its bytes, not its name."""
    return value.sha256 if isinstance(value, Media) else plain(value)


def _side(place: float, shares: Mapping[Side, float]) -> Side:
    edge = 0.0
    for side, share in shares.items():
        edge += share
        if place < edge:
            return side
    return Side.TRAIN


def _by_label(rows: Sequence[Row], keys: Sequence[str], label: str) -> dict[tuple[str, ...], set[str]]:
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    seen: set[str] = set()
    for row, key in zip(rows, keys, strict=True):
        if key not in seen:
            seen.add(key)
            value = row.values[label]
            groups[tuple(sorted(value)) if isinstance(value, tuple) else (value,)].add(key)
    return groups


def _cover(ordered: list[str], sides: Mapping[str, Side], covered: Sequence[Side]) -> dict[str, Side]:
    """New sides for the inputs of one label, so that each side has one, training first.

    A side that lacks one takes it from the side that has most, the lowest position first.
    """
    now = {key: sides[key] for key in ordered}
    for side in covered:
        if side in now.values():
            continue
        counts = {other: list(now.values()).count(other) for other in set(now.values())}
        richest = max(counts, key=lambda other: (counts[other], other))
        if counts[richest] > 1 or side is Side.TRAIN:
            now[next(key for key in ordered if now[key] is richest)] = side
    return now
