"""Saving: what is to be kept is taken between two steps, and written while training goes on.

The loop stands still only while a copy is made on the host. At most one is written at a time: the next one waits for
it. Where the memory for a copy is missing, training stands still until the write is done. What is written is told, and
what went wrong is raised, in the loop before its next step.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from finetune_trainer.cgroup import available_memory
from finetune_trainer.report.snapshot import Activity
from finetune_trainer.training.checkpoint import BEST, PREFIX
from finetune_trainer.training.run import Run
from finetune_trainer.training.selection import standing_of
from finetune_trainer.training.sharded import gathered_tensors
from finetune_trainer.training.state import WeightFile, trained_tensors, whole_state
from finetune_trainer.usage import energy_of

log = logging.getLogger(__name__)
SPARE_BYTES = 256 << 20
"""Memory that is left alone when a copy is made."""


class Staged(Protocol):
    """What one process contributes to a checkpoint."""

    @property
    def shared(self) -> bool:
        """Whether every process has a part of its own; otherwise that of the main process is all there is."""

    @property
    def bytes(self) -> int:
        """What a copy takes of the host's memory."""

    def copied(self) -> Staged:
        """The same, but nothing that training does from now on changes it."""

    def write(self, folder: Path) -> None:
        """Put the files into `folder`, in which other processes may put theirs; takes part in nothing collective."""


def save(run: Run) -> None:
    """Take a checkpoint of this step, unless that was the last one already; every process takes part."""
    with _standstill(run):
        run.writer.wait()
        if run.saves.step != run.state.step:
            _count_up(run)
            step, best = run.state.step, best_steps(run)
            staged = whole_state(run.state, run.model, run.optimizer, run.average.tensors)
            _hand_over(run, PREFIX, staged, best, lambda path, now: _tell(run, step, path, now))
            run.saves.saved(step, time.monotonic())
        elif run.world.is_main and run.reporter.now.checkpoint_uri is None:  # an earlier attempt has written it
            path = run.store.folder / f"{PREFIX}{run.state.step}"
            _tell(run, run.state.step, path, path.stat().st_mtime)


def save_last(run: Run) -> None:
    """The same, for a state that is left: it is written, and told, when this returns."""
    save(run)
    with _standstill(run):
        run.writer.wait()


def save_best(run: Run) -> None:
    """Keep the weights that were evaluated at this step; every process takes part."""
    with _standstill(run):
        run.writer.wait()
        staged = WeightFile(gathered_tensors(trained_tensors(run.model), run.world))
        _hand_over(run, BEST, staged, best_steps(run), lambda _path, _now: None)


def _hand_over(run: Run, prefix: str, staged: Staged, best: list[int], told: Callable[[Path, float], None]) -> None:
    """Have this step's part of this process written meanwhile, or at once where memory is short."""
    world, store, step = run.world, run.store, run.state.step
    if staged.shared:
        store.mark = world.broadcast(store.mark)
    elif not world.is_main:
        return
    room = available_memory()
    copies = fits(staged.bytes, room, _growth())
    if not (copies or run.writer.memory_is_short):
        run.writer.memory_is_short = True
        message = "memory is short: training stands still while checkpoints are written (a copy takes %s, %s are left)"
        log.warning(message, _shown(staged.bytes), _shown(room or 0))
    write = staged.copied().write if copies else staged.write
    peers = world.size - 1 if staged.shared else 0
    if world.is_main:
        run.writer.start(lambda: store.publish(step, write, best, prefix, peers), told, store.progress)
    else:
        run.writer.start(lambda: store.contribute(step, world.rank, write, prefix), told, store.progress)
    if not copies:
        run.writer.wait()


def fits(size: int, available: int | None, growth: int) -> bool:
    """Whether a copy of `size` bytes leaves enough of the memory that is `available`, if that is known.

    `growth` are bytes that the step after the save will take besides.
    """
    return available is None or size + growth + SPARE_BYTES <= available


def _growth() -> int:
    """How many bytes more the processes of this node have held at their peak than they hold now, taken for alike."""
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, held = (int(said[name].split()[0]) << 10 for name in ("VmHWM", "VmRSS"))
    return (peak - held) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _shown(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _count_up(run: Run) -> None:
    """Everything into the state that is counted elsewhere."""
    state = run.state
    state.seconds = run.earlier_seconds + time.monotonic() - run.first_time
    state.energy = energy_of(run)
    state.scaler = run.scaler.state()
    collect_loss(run)
    state.log_bytes = run.reporter.log_bytes


def collect_loss(run: Run) -> None:
    """Move what all processes summed up on their devices into the state."""
    run.state.window_loss += run.world.sum([run.loss.item()])[0]
    run.loss.zero_()


def best_steps(run: Run) -> list[int]:
    """Steps of the evaluations whose weights are to stay."""
    return standing_of(run.state.standing).steps if run.config.checkpoint.keep_best else []


def _tell(run: Run, step: int, path: Path, now: float) -> None:
    uri = f"{run.config.checkpoint_uri or run.config.checkpoint_folder}/{path.name}"
    run.reporter.update(checkpoint_step=step, checkpoint_uri=uri, checkpoint_time=now)


@contextmanager
def _standstill(run: Run) -> Iterator[None]:
    """In this block training stands still for a checkpoint, and that is counted."""
    started, before = time.monotonic(), run.reporter.now.activity
    run.reporter.doing(Activity.SAVING)
    yield
    stalled = run.reporter.now.checkpoint_stall_seconds + time.monotonic() - started
    run.reporter.update(activity=before, checkpoint_stall_seconds=stalled)


def settle(run: Run) -> None:
    """Tell of a checkpoint that has been written since the step before, or raise why it could not be."""
    run.writer.settle()


@contextmanager
def saving(run: Run) -> Iterator[None]:
    """In this block checkpoints are written. What is being written at its end is waited for, whatever ended it."""
    try:
        yield
    except BaseException:
        run.store.give_up()
        try:
            run.writer.wait()
        except Exception as error:
            log.error("and the checkpoint that was being written: %s", error)
        raise
    run.writer.wait()
