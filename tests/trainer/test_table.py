"""Rows lie on disk: what is read back is what was written, and a row costs the process next to nothing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from finetune_trainer.data.columns import Answer
from finetune_trainer.data.media import Media
from finetune_trainer.data.packing import pack, unpack
from finetune_trainer.data.records import Records, RecordWriter
from finetune_trainer.data.rows import MemoryTable, Row, Rows
from finetune_trainer.data.table import TableWriter
from finetune_trainer.errors import Unavailable
from support.runs import a_run

MEDIA = Media("a.png", None, b"\0\1", "ff")
ROW = Row({"text": "ein längerer Text", "image": MEDIA, "label": "b"}, "rows.csv", 7)
VALUES = {
    "text": "Zürich \U0001f600 \ud800",
    "numbers": [0.5, 1, True, None, math.inf],
    "whole numbers": list(range(-3, 40)),
    "large numbers": [2**40] * 10,
    "truths": [True, False] * 8,
    "tuple of tuples": (("a",), (1, 2)),
    "many in a tuple": tuple(range(20)),
    "messages": ({"role": "user", "content": "Hi"},),
    "answers": (Answer("Paris", 17),),
    "bytes": b"\0\xff",
    "media in a file": Media("a.wav", "/data/a.wav", None, "ee", (3, 9)),
    "media": MEDIA,
    "row": ROW,
    "keys": {1: "one", "\0": "two", ("a", 2): "three"},
    "empty": [[], (), {}, "", b""],
    "nested": {"windows": [{"input_ids": list(range(12)), "spans": ((1, 2), None)}]},
}


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in VALUES.items()])
def test_a_value_comes_back_with_its_types(value: Any) -> None:
    assert repr(unpack(pack(value))) == repr(value)
    assert repr(unpack(pack({"a": value, "b": [value]}))) == repr({"a": value, "b": [value]})


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "bool"])
def test_an_array_comes_back(dtype: str) -> None:
    array = numpy.arange(12).reshape(3, 4).astype(dtype)
    found = unpack(pack({"array": array, "scalar": array[1, 1]}))
    numpy.testing.assert_array_equal(found["array"], array, strict=True)
    assert found["array"].flags.writeable
    assert (found["scalar"], type(found["scalar"])) == (array[1, 1], type(array[1, 1]))


def test_what_a_row_has_is_taken_from_the_row() -> None:
    """So the media of a data set are not kept a second time, and a row that moved is told of by its new place."""
    example = {"image": MEDIA, "row": ROW, "place": ROW.place, "context": ROW.values["text"]}
    moved = Row({**ROW.values, "image": Media("b.png", None, b"\2", "dd")}, "other.csv", 1)
    packed = pack(example, ROW)
    assert b"ff" not in packed
    assert unpack(packed, lambda: moved) == {
        "image": moved.values["image"],
        "row": moved,
        "place": "row 1 of other.csv",
        "context": "ein längerer Text",
    }


@pytest.mark.parametrize("value", [{1, 2}, object(), numpy.array([object()]), 1j])
def test_what_cannot_be_kept_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be kept on disk"):
        pack({"a": value})


def test_records_are_read_in_any_order(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "some")
    some = [bytes([number]) * (number % 7) for number in range(50)]
    for record in some:
        writer.add(record)
    writer.close()
    records = Records(tmp_path / "some")
    assert [records.one(place) for place in range(50)] == some
    places = numpy.array([7, 3, 3, 49, 0])
    assert records.read(places) == [some[place] for place in places]
    assert records.read(numpy.array([], dtype=numpy.int64)) == []


def some_rows() -> list[Row]:
    first = [Row({"text": f"text {number}", "image": MEDIA}, "a.csv", number, 2.0) for number in range(1, 6)]
    return [*first, Row({"text": "x", "label": ("a", "b")}, "b.csv", 9, 0.5, {"customer": 3})]


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path)
    for row in some_rows():
        writer.add(row)
    table = writer.close()
    on_disk, in_memory = Rows(table), Rows.of(some_rows())
    assert list(on_disk) == some_rows()
    assert on_disk[-1] == some_rows()[-1]
    chosen = on_disk.take([5, 0, 3])
    assert list(chosen) == [some_rows()[place] for place in (5, 0, 3)]
    assert chosen.weights.tolist() == [0.5, 2.0, 2.0]
    assert list(chosen.take(numpy.array([True, False, True]))) == [some_rows()[place] for place in (5, 3)]
    assert list(on_disk[1:3]) == some_rows()[1:3]
    assert list(on_disk.take([])) == []
    assert [len(chunk) for chunk in on_disk.chunks(4)] == [4, 2]
    assert on_disk.digest == in_memory.digest != chosen.digest


def test_the_digest_is_that_of_the_values() -> None:
    """Wherever they stand."""
    rows = some_rows()
    moved = [Row(row.values, "elsewhere", row.number + 3) for row in rows]
    other = [*rows[:-1], Row({"text": "y"}, "b.csv", 9)]
    digests = [Rows(MemoryTable(some)).digest for some in (rows, moved, other, rows[::-1])]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_full_disk_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable, match="cannot keep the rows in") as caught:
        TableWriter(tmp_path / "file" / "rows")
    assert "TMPDIR" in str(caught.value.hint)


MEASURE = """
import sys
from finetune_api.run import RunConfig
from finetune_trainer.data.kept import keep_data, open_data
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.sampler import Sampler
from pathlib import Path
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
config, folder = RunConfig.model_validate_json(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
load_data(config.model_copy(update={"dataset": config.dataset.model_copy(update={"limit": 10})}), folder / "few")
before = peak()
"""
READ = """
data = load_data(config, folder / "all")
keep_data(data, folder / "all")
data.record()
"""
OPEN = """
data = open_data(folder / "all")
rows = data.sides["train"]
sampler = Sampler(len(rows), 1000, 1, rows.weights)
seen = sum(len(rows[place].values["text"]) > 0 for step in range(20) for place in sampler.indices(step))
assert seen == 20_000
"""
COUNT = 60_000
MOST_BYTES = 300
"""That a row may add to a process, which grows by some megabytes anyway. Python objects take more than 600."""


def test_a_row_costs_a_process_next_to_nothing(tmp_path: Path) -> None:
    """Neither the one that reads and splits them, nor those that open what it left."""
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number in range(COUNT):
            words = " ".join(f"word{(number * 7 + place) % 999}" for place in range(8))
            file.write(json.dumps({"text": f"{number} {words}", "label": f"label {number % 3}"}) + "\n")
    run = a_run(tmp_path, (tmp_path / "rows.jsonl").as_uri(), "file:///none")
    config = run.write()
    grown = [_grown(part, config, tmp_path) / COUNT for part in (READ, OPEN)]
    assert max(grown) < MOST_BYTES, grown


def _grown(part: str, config: Path, folder: Path) -> int:
    """Bytes by which a process grew while it did this."""
    measured = f"{MEASURE}{part}\nprint(peak() - before)"
    command = [sys.executable, "-c", measured, str(config), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)
