"""Encoded rows are kept: the next run with the same rows, model and settings reads them; with others it does not."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest

from finetune_api.run import RunConfig
from finetune_trainer.data.cache import Cache
from finetune_trainer.data.examples import Changed, sizes_of
from finetune_trainer.data.rows import Row, Rows
from finetune_trainer.data.split import Side
from finetune_trainer.encoding import encode_side
from finetune_trainer.errors import DataError
from finetune_trainer.preflight import check_inputs
from finetune_trainer.record import Facts
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import Example, TaskKind
from finetune_trainer.training.evaluate import fixed_draws
from support.killing import what_is_left
from support.models import save_model, sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run

pytestmark = pytest.mark.torch
ROWS = [
    Row({"text": text, "label": label}, "rows.csv", number) for number, (text, label) in enumerate(sentences(40), 1)
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", "bert")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FINETUNE_CACHE", str(folder))
    return folder / "encoded"


def opened(model: Path, task: str = "text-classification", **training: object) -> tuple[TaskKind, Facts]:
    data = write_rows(model.parent / "rows.csv", sentences(60))
    run = a_run(model.parent, data.as_uri(), model.as_uri(), **training)
    config = RunConfig.model_validate({**run.config, "task": task})
    facts = check_inputs(config, None)
    return TASKS[config.task].load(facts.folder, facts.data["labels"], config), facts


def encoded(
    model: Path, rows: list[Row] = ROWS, task: str = "text-classification", **training: object
) -> list[Example]:
    kind, facts = opened(model, task, **training)
    return list(encode_side(kind, Rows.of(rows), Side.TRAIN, facts))


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of a task's `encode` got."""
    calls: list[int] = []
    kind = TASKS["text-classification"]  # type: ignore[index]
    real = kind.encode

    def counted(self: TaskKind, rows: list[Row]) -> tuple[list[Example], int]:
        calls.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(kind, "encode", counted)
    return calls


def test_what_is_kept_is_what_the_task_says(model: Path, encodings: list[int]) -> None:
    kind, facts = opened(model)
    kept = [encode_side(kind, Rows.of(ROWS), Side.TRAIN, facts) for _ in range(2)]
    assert encodings == [40]
    plain, _ = kind.encode(ROWS)
    for examples in kept:
        assert list(examples) == [examples[place] for place in range(40)] == examples[:] == plain
        assert sizes_of(kind, examples).tolist() == [kind.size(example) for example in plain]


def another_tokenizer(model: Path) -> dict[str, object]:
    path = model / "tokenizer.json"
    path.write_text(
        path.read_text().replace('"lowercase":true', '"lowercase":false').replace("lowercase", "lowercase", 1) + "\n"
    )
    return {}


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        pytest.param(lambda _: {"maxLength": 5}, ROWS, id="maxLength"),
        pytest.param(lambda _: {"truncation": False}, ROWS, id="truncation"),
        pytest.param(another_tokenizer, ROWS, id="the tokenizer's file"),
        pytest.param(lambda _: {}, [*ROWS[:-1], Row({**ROWS[-1].values, "text": "other"}, "rows.csv", 40)], id="a row"),
        pytest.param(lambda _: {}, ROWS[::-1], id="the rows' order"),
    ],
)
def test_another_input_is_encoded_anew(
    change: Callable[[Path], dict[str, object]], rows: list[Row], model: Path, encodings: list[int]
) -> None:
    encoded(model)
    encoded(model, rows, **change(model))
    assert encodings == [40, 40]


@pytest.mark.parametrize("training", [{"learningRate": 1e-5}, {"numTrainEpochs": 1}, {"seed": 8}])
def test_what_encoding_does_not_depend_on_changes_nothing(
    training: dict[str, object], model: Path, encodings: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    encoded(model)
    with caplog.at_level(logging.INFO):
        encoded(model, **training)
    assert encodings == [40]
    assert "40 train rows were encoded before, and are read from the cache" in caplog.text


def test_rows_that_moved_are_told_of_by_their_new_place(model: Path) -> None:
    """The cache holds no place: the same rows under another name are found, and named as they are now."""
    encoded(model, task="fill-mask")
    moved = [Row(row.values, "moved.csv", row.number + 1) for row in ROWS]
    assert [example["place"] for example in encoded(model, moved, task="fill-mask")] == [row.place for row in moved]


def test_what_was_cut_is_told_of_every_time(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            encoded(model, maxLength=3)
        assert "40 of 40 train rows are longer than the model or maxLength takes, and were cut" in caplog.text
        caplog.clear()


def cut_short(entry: Path) -> None:
    with (entry / "examples.bin").open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(cut_short, id="a file that is too short"),
        pytest.param(lambda entry: (entry / "sizes.npy").unlink(), id="a file that is missing"),
        pytest.param(lambda entry: (entry / "whole.json").write_text('{"examples.bin":'), id="a torn list of files"),
        pytest.param(
            lambda entry: (entry / "examples.npy").write_bytes(b"x" * (entry / "examples.npy").stat().st_size),
            id="a file of other bytes",
        ),
        pytest.param(lambda entry: entry.rename(entry.with_name(f".unfinished-{entry.name}")), id="never finished"),
    ],
)
def test_what_is_torn_is_never_used(
    spoil: Callable[[Path], None], model: Path, encodings: list[int], cache: Path
) -> None:
    first = encoded(model)
    (entry,) = (path.parent for path in cache.glob("*/whole.json"))
    spoil(entry)
    assert encoded(model) == first
    assert encodings == [40, 40]
    assert [path.parent for path in cache.glob("*/whole.json")] == [entry]


def test_a_cache_that_cannot_be_written_to(
    model: Path, cache: Path, encodings: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file")
    first = encoded(model)
    assert len(first) == 40
    assert "cannot keep encoded rows" in caplog.text
    assert encodings == [40]


def test_a_row_that_cannot_be_encoded_leaves_nothing(model: Path, cache: Path) -> None:
    long = [*ROWS, Row({"text": "word " * 500, "label": "good"}, "rows.csv", 41)]
    with pytest.raises(DataError, match=r"row 41 of rows.csv: the text has more than"):
        encoded(model, long, truncation=False)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_the_oldest_goes_when_there_is_too_much(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most=2500)

    def use(key: str) -> bool:
        def make(folder: Path) -> None:
            (folder / "data").write_bytes(bytes(1000))

        return cache.get(key, make, lambda folder: (folder / "data").read_bytes())[1]

    now = time.time()
    for age, key in enumerate(["a", "b", "c"]):
        assert not use(key)
        os.utime(tmp_path / key / "whole.json", (now + age - 100, now + age - 100))
    assert sorted(path.parent.name for path in tmp_path.glob("*/whole.json")) == ["b", "c"]
    assert use("b")
    assert not use("d")
    assert sorted(path.parent.name for path in tmp_path.glob("*/whole.json")) == ["b", "d"]


def test_draws_are_added_as_examples_are_read(model: Path) -> None:
    kind, facts = opened(model, "fill-mask")
    fixed = fixed_draws(encode_side(kind, Rows.of(ROWS), Side.TEST, facts), 7, "test")
    draws = [example["draw"] for example in fixed]
    assert draws == [fixed[place]["draw"] for place in range(40)]
    assert len({*draws}) == 40
    assert numpy.array_equal(sizes_of(kind, fixed), [kind.size(example) for example in fixed])


def test_changed_examples_that_have_other_sizes_are_measured_anew(model: Path) -> None:
    kind, facts = opened(model)
    examples = encode_side(kind, Rows.of(ROWS), Side.TRAIN, facts)
    shorter = Changed(examples, lambda _, example: {**example, "input_ids": example["input_ids"][:2]}, resized=True)
    assert sizes_of(kind, shorter).tolist() == [2] * 40


@pytest.fixture
def run(small_run: ARun, cache: Path) -> Iterator[ARun]:
    yield small_run
    shutil.rmtree(cache.parent, ignore_errors=True)


def test_a_second_run_encodes_nothing_and_ends_with_the_same_bytes(
    run: ARun, cache: Path, trainer: WarmTrainer
) -> None:
    """Those of the tokenizer, too. Also with two processes, of which one encodes while the other waits."""
    environment = {"FINETUNE_CACHE": str(cache.parent)}
    short = run.with_("training", numTrainEpochs=1)
    first = trainer.run(short, **environment)
    left = what_is_left(short)
    assert (first.code, first.log.count("encoded before"), first.log.count("encoded ")) == (0, 0, 3), first.log
    shutil.rmtree(short.folder)
    second = trainer.run(short, **environment)
    assert (second.code, second.log.count("encoded before")) == (0, 3), second.log
    assert what_is_left(short) == left
    shutil.rmtree(cache.parent)
    shutil.rmtree(short.folder)
    both = trainer.run(short.with_processes(2), **environment)
    assert both.code == 0, both.log
    assert len([*cache.glob("*/whole.json")]) == 3


def test_a_run_that_is_asked_to_stop_while_it_encodes_ends_at_once(
    run: ARun, cache: Path, trainer: WarmTrainer, tmp_path: Path
) -> None:
    """As Preempted, and the next attempt finds nothing that is half done."""
    many = write_rows(tmp_path / "many.csv", sentences(30_000))
    large = run.with_("dataset", train=[{"uri": many.as_uri()}])
    attempt = trainer.start(large, FINETUNE_CACHE=str(cache.parent))
    attempt.until(lambda: any(cache.glob(".unfinished-*/examples.bin")), "encoding")
    started = time.monotonic()
    attempt.send(signal.SIGTERM)
    ended = attempt.end()
    assert time.monotonic() - started < 10
    assert (ended.code, ended.outcome.outcome) == (75, "Preempted")
    assert [*cache.glob("*/whole.json")] == []


def test_a_run_that_is_asked_to_stop_while_it_reads_its_rows_ends_at_once(
    run: ARun, trainer: WarmTrainer, tmp_path: Path
) -> None:
    many = write_rows(tmp_path / "many.csv", sentences(60_000))
    large = run.with_("dataset", train=[{"uri": many.as_uri()}])
    attempt = trainer.start(large)
    attempt.until(lambda: (run.folder / "status.json").exists(), "the check")
    time.sleep(0.3)
    attempt.send(signal.SIGTERM)
    ended = attempt.end()
    assert (ended.code, ended.outcome.outcome) == (75, "Preempted")
