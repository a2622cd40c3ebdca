"""What stands in a column: the roles of a task, and how the cells of each become values.

A kind is a function of a cell and of where it stands. Whatever format a cell comes from, text that is JSON included,
the same value comes out, or a DataError that names row, column and what would work.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_trainer.data.media import Media, Value
from finetune_trainer.errors import ConfigError, DataError, nearest

FILL = "fill the cell or remove the row"
ANSWERS = '{"text": ["…"], "answer_start": [0]}'


@dataclass(frozen=True)
class Where:
    """Where a cell stands: its row, its column, the role that it plays, and what paths in it are relative to."""

    place: str
    column: str
    role: str
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.place}: column {self.column!r} ({self.role})"


Kind = Callable[[Any, Where], Any]


@dataclass(frozen=True)
class Answer(Value):
    """A span of a context: its text, and the character that it starts at."""

    text: str
    start: int

    def plain(self) -> dict[str, Any]:
        return {"text": self.text, "answer_start": self.start}


def as_text(value: Any) -> str | None:
    """A cell as text: whole floats without their `.0` (a column of integers with a gap is read as floats).

    None where there is no value: null, NaN, or nothing but blanks.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text if text.strip() else None


def text(cell: Any, where: Where) -> str:
    """Text that is not blank; a number becomes the text that people write for it."""
    if isinstance(cell, list | dict | bytes):
        raise DataError(
            "NotText", f"{where.place}: column {where.column!r} holds a {type(cell).__name__}, not one value"
        )
    value = as_text(cell)
    if value is None:
        raise _empty(where)
    return value


def label(cell: Any, where: Where) -> str | tuple[str, ...]:
    """A label, or for a list (also as JSON) a tuple of labels, each once."""
    labels = _json_of(cell, list)
    if labels is None:
        return text(cell, where)
    return tuple(dict.fromkeys(text(item, where) for item in labels))


def number(cell: Any, where: Where) -> float:
    """A finite number."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise _empty(where)
    try:
        if isinstance(cell, str | int | float | Decimal) and math.isfinite(value := float(cell)):
            return value
    except (ValueError, OverflowError):
        pass
    message = f"{where} holds {_shown(cell)}, which is not a finite number"
    raise DataError("NotANumber", message, "write a number such as 3 or -0.25, or remove the row")


def words(cell: Any, where: Where) -> tuple[str, ...]:
    """The words of a list (also as JSON); other text is split at its blanks."""
    items = _json_of(cell, list)
    if items is None:
        items = text(cell, where).split()
    if not items:
        raise _empty(where)
    values = [as_text(item) for item in items]
    if None in values:
        raise DataError("EmptyValue", f"{where}: word {values.index(None) + 1} is empty", "fill or remove it")
    return tuple(str(value) for value in values)


def answers(cell: Any, where: Where) -> tuple[Answer, ...]:
    """The answers of a question in one of SQuAD's two layouts (also as JSON); none if it cannot be answered."""
    value = _json_of(cell, list | dict)
    if value is None:
        raise _empty(where) if as_text(cell) is None else _not_answers(where)
    try:
        if isinstance(value, list):
            return tuple(_answer(item["text"], item["answer_start"]) for item in value)
        return tuple(_answer(*pair) for pair in zip(value["text"], value["answer_start"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise _not_answers(where) from error


def _answer(text: Any, start: Any) -> Answer:
    if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise TypeError("an answer is text and where it starts")
    return Answer(text, start)


def _not_answers(where: Where) -> DataError:
    hint = f"write {ANSWERS}, with empty lists where the context has no answer"
    return DataError("NotAnswers", f"{where} does not hold answers with their starts", hint)


def messages(cell: Any, where: Where) -> tuple[dict[str, str], ...]:
    """The turns of a conversation (also as JSON): objects with role and content."""
    turns = _json_of(cell, list)
    if not turns:
        raise _empty(where) if turns == [] or as_text(cell) is None else _not_messages(where, "no list of messages")
    return tuple(_message(turn, number, where) for number, turn in enumerate(turns, start=1))


def _message(turn: Any, number: int, where: Where) -> dict[str, str]:
    """Keys without a value are dropped: Parquet gives every message the keys that any message has."""
    if not isinstance(turn, dict):
        raise _not_messages(where, f"message {number} that is no object")
    given = {key: value for key, value in turn.items() if value is not None}
    if set(given) != {"role", "content"}:
        raise _not_messages(where, f"message {number} with the keys {', '.join(sorted(given)) or 'none'}")
    if not all(isinstance(value, str) for value in given.values()):
        raise _not_messages(where, f"message {number} whose role or content is not text")
    return {"role": given["role"], "content": given["content"]}


def _not_messages(where: Where, what: str) -> DataError:
    hint = 'write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
    return DataError("NotMessages", f"{where} holds {what}", hint)


def media(cell: Any, where: Where) -> Media:
    """An image or a sound: bytes, a path, or both as `datasets` stores them. The bytes are read for their hash."""
    path, content = (cell.get("path"), cell.get("bytes")) if isinstance(cell, dict) else (cell, None)
    if isinstance(path, bytes):
        path, content = None, path
    if content is not None:
        name = Path(path).name if path else where.column
        return Media(name, None, content, hashlib.sha256(content).hexdigest())
    if not isinstance(path, str) or not path.strip():
        raise _empty(where) if path is None or path == "" else _no_media(where, path)
    return _media_file(_media_path(path, where), path, where)


image = audio = media


def _media_path(path: str, where: Where) -> Path:
    """Relative paths are relative to the data file's folder."""
    return Path(where.folder or "", path.removeprefix("file://"))


def _media_file(file: Path, path: str, where: Where) -> Media:
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        hint = "write paths relative to the data file's folder, or absolute ones"
        raise DataError("NoSuchFile", f"{where} names {path}, which does not exist", hint) from error
    except OSError as error:
        raise DataError("NoSuchFile", f"{where} names {path}, which cannot be read: {error.strerror}") from error
    return Media(file.name, str(file), None, hashlib.sha256(content).hexdigest())


def _no_media(where: Where, cell: Any) -> DataError:
    return DataError("NotMedia", f"{where} holds {_shown(cell)}", "give a path, or the file's bytes")


def _json_of(cell: Any, kind: Any) -> Any | None:
    """The cell if it is of `kind`, or what it says as JSON if that is."""
    if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return cell if isinstance(cell, kind) else None


class EmptyCell(DataError):
    """A cell has no value; cleaning may drop the row for it."""

    def __init__(self, where: Where) -> None:
        super().__init__("EmptyValue", f"{where} is empty", FILL)
        self.role = where.role


def _empty(where: Where) -> DataError:
    return EmptyCell(where)


def _shown(cell: Any) -> str:
    shown = repr(cell)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


@dataclass(frozen=True)
class Roles:
    """The values that a task reads of each row.

    `kinds` has every role and how its cells are read. `needed` has the sets of roles of which one suffices, the
    preferred first. `targets` are the roles that rows to predict may lack.
    """

    kinds: Mapping[str, Kind]
    needed: tuple[tuple[str, ...], ...]
    targets: tuple[str, ...] = ()

    def resolve(
        self, names: Mapping[str, str], known: Sequence[str], source: str, predicting: bool = False
    ) -> dict[str, str]:
        """Role to column for the rows of `source`, whose columns are `known`; `names` is the manifest's choice.

        A role that the manifest does not name stands in a column of its own name. Raises ConfigError.
        """
        self._check_names(names)
        columns = {role: names.get(role, role) for role in self.kinds}
        spared = self.targets if predicting else ()
        wanted = {
            *self._alternative(names, columns, known, source, spared),
            *(role for role in names if role not in spared),
            *(role for role in spared if columns[role] in known),
        }
        resolved = {role: column for role, column in columns.items() if role in wanted}
        for role, column in resolved.items():
            if column not in known:
                raise _no_column(role, column, known, source)
        return resolved

    def _check_names(self, names: Mapping[str, str]) -> None:
        for role in names:
            if role not in self.kinds:
                hint = nearest(role, self.kinds, "roles of this task")
                raise ConfigError("UnknownRole", f"spec.dataset.columns.{role}: this task has no such role", hint)

    def _alternative(
        self,
        names: Mapping[str, str],
        columns: Mapping[str, str],
        known: Sequence[str],
        source: str,
        spared: Sequence[str],
    ) -> tuple[str, ...]:
        """The first set of roles whose columns are there, those with the most roles that the manifest names first."""
        sets = list(dict.fromkeys(tuple(role for role in needed if role not in spared) for needed in self.needed))
        sets.sort(key=lambda roles: -len(set(roles) & set(names)))
        for roles in sets:
            if all(columns[role] in known for role in roles):
                return roles
        named = [role for role in sets[0] if role in names]
        if len(sets) > 1 and not named:
            raise _no_alternative(sets, known, source)
        missing = next(role for role in sets[0] if columns[role] not in known)
        raise _no_column(missing, columns[missing], known, source)


def _no_column(role: str, column: str, known: Sequence[str], source: str) -> ConfigError:
    message = f"spec.dataset.columns.{role}: {source} has no column {column!r}"
    return ConfigError("ColumnNotFound", message, nearest(column, known, "columns there are"))


def _no_alternative(sets: Sequence[Sequence[str]], known: Sequence[str], source: str) -> ConfigError:
    listed = ", or ".join(" and ".join(roles) for roles in sets)
    there = ", ".join(sorted(known)[:20]) or "none"
    message = f"spec.dataset.columns: {source} has no columns that this task can use"
    return ConfigError("ColumnNotFound", message, f"it takes {listed}; columns there are: {there}")
