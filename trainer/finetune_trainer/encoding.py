"""Rows to examples: encoded a chunk at a time onto the disk, once for all processes of a node and all runs alike."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_trainer import heartbeat, tasks
from finetune_trainer.data import media, packing
from finetune_trainer.data.cache import Cache, cache_folder, most_bytes
from finetune_trainer.data.examples import ExampleWriter, StoredExamples
from finetune_trainer.data.rows import CHUNK, Rows
from finetune_trainer.data.split import Side
from finetune_trainer.files import digest_of, read_json, write_json
from finetune_trainer.record import Facts
from finetune_trainer.tasks.base import Example, TaskKind

log = logging.getLogger(__name__)
FORMAT = 1
"""Of the files; another one is another fingerprint."""
LIBRARIES = ("transformers", "tokenizers", "numpy", "pillow", "soundfile", "soxr")
TOLD = "told.json"
MOST_TOLD = 20
"""Lines of the log that are kept with the examples, and said again by whoever reads them."""


def encode_side(task: TaskKind, rows: Rows, side: Side, facts: Facts) -> Sequence[Example]:
    """The examples of a side's rows, from the cache if an earlier run, or another process, has encoded them.

    Raises DataError for a row that the model cannot take.
    """
    if not rows:
        return []
    started, key = time.monotonic(), fingerprint(task, rows, facts)

    def make(folder: Path) -> None:
        _encode(task, rows, side, folder)

    def read(folder: Path) -> tuple[StoredExamples, list[Any]]:
        return StoredExamples(folder, rows), read_json(folder / TOLD) or []

    (examples, told), found = _kept(key, make, read, facts)
    for level, line in told:
        log.log(level, line)
    if found:
        log.info("%d %s rows were encoded before, and are read from the cache", len(rows), side)
    else:
        log.info("encoded %d %s rows in %.1f s", len(rows), side, time.monotonic() - started)
    return examples


def _kept(
    key: str, make: Callable[[Path], None], read: Callable[[Path], Any], facts: Facts
) -> tuple[tuple[StoredExamples, list[Any]], bool]:
    """From the cache; where that cannot be written to, from a folder that goes with the run."""
    chosen = cache_folder(os.environ) / "encoded"
    try:
        return Cache(chosen, most_bytes(os.environ)).get(key, make, read)
    except OSError as error:
        message = "cannot keep encoded rows in %s (%s): they go with this run; FINETUNE_CACHE names another folder"
        log.warning(message, chosen, error.strerror or error)
        own = Path(tempfile.mkdtemp(prefix="finetune-encoded-")) if facts.rows is None else facts.rows / "encoded"
        return Cache(own, most_bytes(os.environ)).get(key, make, read)


def _encode(task: TaskKind, rows: Rows, side: Side, folder: Path) -> None:
    writer, cut = ExampleWriter(folder), 0
    with _overheard() as told:
        for chunk in rows.chunks(CHUNK):
            examples, cut_here = task.encode(chunk)
            writer.add(task, chunk, examples)
            cut += cut_here
            heartbeat.beat()
        if cut:
            message = "%d of %d %s rows are longer than the model or maxLength takes, and were cut"
            log.info(message, cut, len(rows), side)
    writer.close()
    write_json(folder / TOLD, told)


@contextmanager
def _overheard() -> Iterator[list[tuple[int, str]]]:
    """What the tasks log in this block, for whoever reads the examples: it is not said here."""
    told: list[tuple[int, str]] = []

    class Ear(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            line = (record.levelno, record.getMessage())
            if len(told) < MOST_TOLD and line not in told:
                told.append(line)
            return False

    ear, above = Ear(), logging.getLogger("finetune_trainer")
    handler = logging.Handler()
    handler.addFilter(ear)
    level, propagate = above.level, above.propagate
    above.addHandler(handler)
    above.setLevel(logging.INFO)
    above.propagate = False
    try:
        yield told
    finally:
        above.removeHandler(handler)
        above.setLevel(level)
        above.propagate = propagate


def fingerprint(task: TaskKind, rows: Rows, facts: Facts) -> str:
    """What the examples of these rows follow from: another fingerprint, and they are encoded anew."""
    config = task.config
    parts = {
        "format": FORMAT,
        "rows": rows.digest,
        "model": facts.model["sha256"],
        "task": config.task,
        "labels": task.labels,
        "problemType": config.dataset.problem_type,
        "maxLength": config.training.max_length,
        "truncation": config.training.truncation,
        "virtualTokens": config.method.virtual_tokens,
        "trustRemoteCode": config.model.trust_remote_code,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    """Hash over the modules that make examples of rows."""
    own = [Path(str(module.__file__)) for module in (media, packing)]
    paths = [*Path(str(tasks.__file__)).parent.glob("*.py"), *own]
    return digest_of({path.name: path for path in paths})
