"""A full volume is told from every other fault, whoever writes there, and never as a fault of the program."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from finetune_api.progress import ExitCode, FailureClass
from finetune_trainer.storage import is_full, storage_full
from support.runs import ARun, WarmTrainer

pytestmark = pytest.mark.torch
BIG = 4 * 2**20


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a volume of so many KiB, which only root can."""
    folders: list[Path] = []

    def make(kib: int) -> Path:
        folder = tmp_path / f"volume-{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("cannot mount a small volume here")
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def text(folder: Path) -> None:
    (folder / "text").write_text("x" * BIG)


def array(folder: Path) -> None:
    numpy.save(folder / "array.npy", numpy.zeros(BIG))


def table(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"column": numpy.random.default_rng(0).random(BIG // 8)}), folder / "table.parquet"
    )


def weights(folder: Path) -> None:
    import torch

    from finetune_trainer.training.state import write_weights

    write_weights(folder, {"weight": torch.zeros(BIG)})


def state(folder: Path) -> None:
    import torch

    from finetune_trainer.training.state import State, write_state

    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.state[model.weight] = {"exp_avg": torch.zeros(BIG)}
    write_state(folder, State(), model, optimizer, {})


def database(folder: Path) -> None:
    with sqlite3.connect(folder / "rows.db") as connection:
        connection.execute("create table rows (value)")
        connection.executemany("insert into rows values (?)", [("x" * 4096,)] * (BIG // 4096))


def copies(folder: Path) -> None:
    source = folder.parent / "source"
    source.mkdir()
    (source / "file").write_bytes(bytes(BIG))
    shutil.copytree(source, folder / "copy")


@pytest.mark.parametrize(
    "write", [text, array, table, weights, state, database, copies], ids=lambda write: write.__name__
)
def test_a_full_volume_is_known_by_what_each_library_says(
    write: Callable[[Path], None], small_volume: Callable[[int], Path]
) -> None:
    from finetune_trainer.faults import explain

    with pytest.raises(Exception) as caught:  # noqa: PT011
        write(small_volume(256))
    assert is_full(caught.value), repr(caught.value)
    known = explain(caught.value)
    assert (known.exit_code, known.failure_class) == (ExitCode.STORAGE_FULL, FailureClass.STORAGE_FULL)


def wrapped(cause: BaseException) -> BaseException:
    error = ValueError("cannot go on")
    error.__cause__ = cause
    return error


def handled(before: BaseException) -> BaseException:
    error = KeyError("x")
    error.__context__ = before
    return error


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/volume/file")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        pytest.param(NO_SPACE, True, id="no space"),
        pytest.param(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), True, id="quota"),
        pytest.param(wrapped(NO_SPACE), True, id="the cause"),
        pytest.param(handled(NO_SPACE), False, id="another error while that was dealt with"),
        pytest.param(OSError(errno.EROFS, os.strerror(errno.EROFS)), False, id="read-only"),
        pytest.param(RuntimeError("index 28 is out of range"), False, id="a number"),
    ],
)
def test_what_is_full(error: BaseException, full: bool) -> None:
    assert is_full(error) is full


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(NO_SPACE, "cannot write rows to /volume/file: no space is left on its volume", id="space"),
        pytest.param(OSError(errno.EDQUOT, "quota"), "cannot write rows: the quota is used up", id="quota"),
    ],
)
def test_what_is_said(error: OSError, message: str) -> None:
    assert storage_full(error, "rows").message == message


@pytest.mark.parametrize("where", ["checkpointFolder", "folder"])
def test_a_run_on_a_full_volume_ends_for_good(
    where: str, trainer: WarmTrainer, small_run: ARun, small_volume: Callable[[int], Path]
) -> None:
    """73, with what to do; what was half written is gone."""
    volume = small_volume(128)
    config: dict[str, Any] = {**small_run.config, where: str(volume / "files")}
    if where == "folder":
        config["checkpointFolder"] = str(small_run.root / "checkpoints")
    run = ARun(small_run.root, config).with_("checkpoint", everySteps=2).with_("training", maxSteps=4)
    ended = trainer.run(run)
    failure = ended.outcome.failure
    assert failure is not None
    assert (ended.code, failure.class_) == (ExitCode.STORAGE_FULL, FailureClass.STORAGE_FULL), ended.log
    assert str(volume) in failure.message
    assert not list(volume.rglob("*.tmp-*"))


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    trainer: WarmTrainer, small_run: ARun, small_volume: Callable[[int], Path]
) -> None:
    """It was written while training went on; with more room the next attempt goes on from what is there."""
    weights = (Path(small_run.config["model"]["uri"].removeprefix("file://")) / "model.safetensors").stat().st_size
    volume = small_volume(int(4.5 * weights) >> 10)
    run = ARun(small_run.root, {**small_run.config, "checkpointFolder": str(volume / "checkpoints")})
    run = run.with_("checkpoint", everySteps=2).with_("training", maxSteps=6).with_("evaluation", strategy="Never")
    ended = trainer.run(run)
    failure = ended.outcome.failure
    assert failure is not None
    assert (ended.code, failure.class_) == (ExitCode.STORAGE_FULL, FailureClass.STORAGE_FULL), ended.log
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["FENCE", "step-2"]
    subprocess.run(["mount", "-o", f"remount,size={8 * weights}", str(volume)], check=True)
    again = run.with_("job", attempt=2).with_("checkpoint", keepLast=1)
    ended = trainer.run(again)
    assert ended.code == ExitCode.DONE, ended.log
    assert again.read("status.json")["checkpoint"]["resumedFromStep"] == 2
