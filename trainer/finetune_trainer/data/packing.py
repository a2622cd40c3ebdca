"""Values as bytes and back, of the same types: what rows and examples are kept as on disk.

JSON, behind which lie the bytes of arrays, of long lists of whole numbers, and of media. Nothing that is read back can
run code, as it could with pickle: a cache may be shared.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from finetune_trainer.data.columns import Answer
from finetune_trainer.data.media import Media
from finetune_trainer.data.rows import Row

MARK = "\0"
"""The key of an object that stands for what JSON does not have."""
FEW = 8
"""Shorter lists of numbers are not worth an array."""
HEAD = 4
"""Bytes that say how long the JSON is."""
LARGE = 1 << 31
SCALARS = frozenset({bool, int, float, type(None)})
TYPES: Mapping[str, Callable[..., Any]] = {kind.__name__: kind for kind in (Answer, Media, Row)}
ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def pack(value: Any, row: Row | None = None) -> bytes:
    """A value as bytes. What `row` already has, itself, its place, a role's text or media, is only referred to."""
    packing = _Packing(row)
    text = ENCODER.encode(packing.pack(value)).encode("utf-8", "surrogatepass")
    return b"".join((len(text).to_bytes(HEAD, "little"), text, *packing.tail))


def unpack(data: bytes, row: Callable[[], Row] | None = None) -> Any:
    """The value that `data` holds; `row` gives the row that it was packed with."""
    end = HEAD + int.from_bytes(data[:HEAD], "little")
    text = data[HEAD:end].decode("utf-8", "surrogatepass")
    return json.JSONDecoder(object_hook=_Unpacking(data, end, row).of).raw_decode(text)[0]


class _Packing:
    """One value on its way to JSON; `tail` takes the bytes."""

    def __init__(self, row: Row | None) -> None:
        self.tail: list[bytes] = []
        self.size = 0
        self.place = None if row is None else row.place
        self.known = {} if row is None else _known(row)

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if kind is list:
            return self._list(value)
        if kind is dict:
            return self._mapping(value)
        if kind is str or id(value) in self.known:
            return self._known(value)
        return value if kind in SCALARS else self._other(value)

    def _known(self, value: Any) -> Any:
        if self.known and id(value) in self.known:
            return {MARK: self.known[id(value)]}
        return {MARK: ["place"]} if value == self.place else value

    def _mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        packed = {key: self.pack(item) for key, item in value.items()}
        if MARK not in packed and {*map(type, packed)} <= {str}:
            return packed
        return {MARK: ["pairs", [[self.pack(key), item] for key, item in packed.items()]]}

    def _list(self, value: Sequence[Any]) -> Any:
        if len(value) >= FEW and {*map(type, value)} == {int} and min(value) >= -LARGE and max(value) < LARGE:
            return {MARK: ["numbers", *self._add(array("i", value).tobytes())]}
        return [self.pack(item) for item in value]

    def _other(self, value: Any) -> dict[str, Any]:
        if isinstance(value, tuple):
            return {MARK: ["tuple", self._list(value)]}
        if isinstance(value, numpy.ndarray | numpy.generic) and not value.dtype.hasobject:
            return {MARK: ["array", value.dtype.str, value.shape, *self._add(value.tobytes())]}
        if isinstance(value, bytes):
            return {MARK: ["bytes", *self._add(value)]}
        if isinstance(value, Answer | Media | Row):
            return {MARK: [type(value).__name__, self.pack(vars(value))]}
        if isinstance(value, Mapping):
            return self._mapping(dict(value))
        raise TypeError(f"a {type(value).__name__} cannot be kept on disk")

    def _add(self, data: bytes) -> tuple[int, int]:
        start = self.size
        self.tail.append(data)
        self.size += len(data)
        return start, self.size


def _known(row: Row) -> dict[int, list[Any]]:
    """Objects of a row by their identity, and how they are referred to."""
    roles = {id(value): ["role", role] for role, value in row.values.items() if isinstance(value, str | Media)}
    return {**roles, id(row): ["row"]}


class _Unpacking:
    """What the marked objects of one value stand for; the bytes begin at `start` of `data`."""

    def __init__(self, data: bytes, start: int, row: Callable[[], Row] | None) -> None:
        self.data, self.start, self.row = data, start, row

    def of(self, value: dict[str, Any]) -> Any:
        if MARK not in value:
            return value
        kind, *parts = value[MARK]
        if kind == "numbers":
            return array("i", self._bytes(*parts)).tolist()
        if kind in ("row", "place", "role"):
            return self._known(kind, *parts)
        return self._made(kind, parts)

    def _bytes(self, start: int, end: int) -> bytes:
        return self.data[self.start + start : self.start + end]

    def _known(self, kind: str, role: str = "") -> Any:
        assert self.row is not None
        row = self.row()
        if kind == "role":
            return row.values[role]
        return row if kind == "row" else row.place

    def _made(self, kind: str, parts: Sequence[Any]) -> Any:
        if kind == "tuple":
            return tuple(parts[0])
        if kind == "array":
            found = numpy.frombuffer(self._bytes(*parts[2:]), dtype=parts[0]).reshape(parts[1])
            return found.copy() if found.shape else found[()]
        if kind == "pairs":
            return dict(parts[0])
        if kind == "bytes":
            return self._bytes(*parts)
        return TYPES[kind](**parts[0])
