"""Training goes on while a checkpoint is written, and whatever happens meanwhile, what was whole stays whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.progress import ExitCode, FailureClass
from finetune_trainer import heartbeat
from finetune_trainer.errors import StorageFull
from finetune_trainer.heartbeat import Pulse
from finetune_trainer.training.checkpoint import Owner, claim
from finetune_trainer.training.writer import Writer
from support import slow_saves
from support.runs import ARun, Attempt, WarmTrainer

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shared_storage(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Whose means of all weights lie in one storage."""
    import torch

    optimizer = torch.optim.AdamW(parameters, fused=True)
    whole = torch.rand(sum(parameter.numel() for parameter in parameters))
    parts = whole.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        means = {"exp_avg": part.view_as(parameter), "exp_avg_sq": part.square().view_as(parameter)}
        optimizer.state[parameter] = {"step": torch.tensor(1.0), **means}
    return optimizer


def adamw(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}], fused=True)


def momentum(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    import torch

    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("make", [adamw, shared_storage, momentum], ids=lambda make: make.__name__)
def test_a_copy_is_written_with_the_bytes_of_the_moment(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], tmp_path: Path
) -> None:
    """Steps that are done meanwhile do not show in it; nor does it show that it was copied."""
    import torch

    from finetune_trainer.training.averaging import WeightAverage
    from finetune_trainer.training.state import State, whole_state

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), torch.nn.BatchNorm2d(4))
    optimizer, average = make(list(model.parameters())), WeightAverage(model, 0.9)

    def step() -> None:
        model(torch.rand(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        average.update(1)

    step()
    state = State(step=1, standing={"ranking": [], "stale": 0})
    whole = whole_state(state, model, optimizer, average.tensors)
    copied = whole.copied()
    for name in ("at-once", "later"):
        (tmp_path / name).mkdir()
    whole.write(tmp_path / "at-once")
    step()
    state.standing["stale"] = 1
    copied.write(tmp_path / "later")
    found = contents(tmp_path / "later")
    assert found == contents(tmp_path / "at-once")
    assert sorted(found) == ["average.safetensors", "model.safetensors", "optimizer.pt", "state.json"]


class Told:
    """What a writer told of, in order."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def __call__(self, path: Path, _: float) -> None:
        self.of.append(path.name)


def written(name: str, seconds: float = 0.0, error: BaseException | None = None) -> Callable[[], Path]:
    def work() -> Path:
        time.sleep(seconds)
        if error is not None:
            raise error
        return Path(name)

    return work


def test_one_is_written_at_a_time_and_told_in_order() -> None:
    """The second waits for the first; nobody waits for the second until it is asked for."""
    writer, told, started = Writer(), Told(), time.monotonic()
    writer.start(written("best-4", 0.5), told, int)
    assert time.monotonic() - started < 0.4
    writer.settle()
    assert told.of == []
    writer.start(written("step-4", 0.5), told, int)
    assert time.monotonic() - started >= 0.5
    assert told.of == ["best-4"]
    writer.wait()
    assert told.of == ["best-4", "step-4"]


def test_what_went_wrong_is_raised_in_the_loop_once() -> None:
    writer, told = Writer(), Told()
    writer.start(written("step-4", 0.0, StorageFull("StorageFull", "no room")), told, int)
    with pytest.raises(StorageFull, match="no room"):
        writer.wait()
    writer.settle()
    writer.start(written("step-8"), told, int)
    writer.wait()
    assert told.of == ["step-8"]


@pytest.mark.parametrize(
    ("goes_on", "beats"), [pytest.param(True, range(3, 20), id="goes on"), pytest.param(False, [1], id="stands still")]
)
def test_waiting_is_work_only_while_the_write_goes_on(
    goes_on: bool, beats: range | list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a volume that hangs would never be found."""
    pulse = Pulse()
    monkeypatch.setattr(heartbeat, "PULSE", pulse)
    signs = iter(range(1000))
    writer = Writer()
    writer.start(written("step-4", 4.5), Told(), lambda: next(signs) if goes_on else 0)
    writer.wait()
    assert pulse.count in beats


@pytest.mark.parametrize(
    ("size", "available", "growth", "fit"),
    [
        pytest.param(1 << 40, None, 0, True, id="unknown"),
        pytest.param(1 << 30, 2 << 30, 0, True, id="room"),
        pytest.param(1 << 30, 1 << 30, 0, False, id="none to spare"),
        pytest.param(1 << 30, 2 << 30, 1 << 30, False, id="the next step takes it"),
    ],
)
def test_a_copy_is_made_where_there_is_room(size: int, available: int | None, growth: int, fit: bool) -> None:
    from finetune_trainer.training.saving import fits

    assert fits(size, available, growth) is fit


def saving_run(run: ARun, every: int = 4, steps: int = 12) -> ARun:
    run = run.with_("checkpoint", everySteps=every, everySeconds=None).with_("training", maxSteps=steps)
    return run.with_("evaluation", strategy="Never")


def next_attempt(run: ARun) -> ARun:
    return run.with_("job", attempt=run.config["job"]["attempt"] + 1)


def being_written(run: ARun, name: str) -> bool:
    return bool(list(run.checkpoints.glob(f".tmp-{name}-*")))


def steps_of(run: ARun) -> list[str]:
    return sorted((path.name for path in run.checkpoints.glob("step-*")), key=lambda name: int(name[5:]))


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: line[name] for name in line if name not in {"time", "tokens_per_second"}} for line in lines]


@pytest.fixture
def running() -> Iterator[Callable[[Attempt], Attempt]]:
    """Attempts that are ended with the test, however that ends."""
    attempts: list[Attempt] = []

    def kept(attempt: Attempt) -> Attempt:
        attempts.append(attempt)
        return attempt

    yield kept
    for attempt in attempts:
        if attempt.process.is_alive():
            attempt.vanish()


def test_killed_in_the_middle_of_a_write_it_goes_on_from_the_one_before(
    trainer: WarmTrainer, small_run: ARun, tmp_path: Path, running: Callable[[Attempt], Attempt]
) -> None:
    """Steps are done while it is written; kill -9 leaves the last good one good, and the same bytes in the end."""
    run = saving_run(small_run)
    attempt = running(trainer.start(run, slow_saves.slow))
    attempt.until(lambda: being_written(run, "step-4"), "a write")
    attempt.until_step(6)
    assert being_written(run, "step-4")
    assert steps_of(run) == []
    attempt.until(lambda: being_written(run, "step-8"), "the next write")
    attempt.vanish()
    assert steps_of(run) == ["step-4"]
    assert being_written(run, "step-8")
    again = next_attempt(run)
    ended = trainer.run(again)
    assert ended.code == ExitCode.DONE, ended.log
    assert again.read("status.json")["checkpoint"]["resumedFromStep"] == 4
    assert not list(run.checkpoints.glob(".tmp-*"))
    folder = tmp_path / "other" / "run"
    other = ARun(folder.parent, {**run.config, "folder": str(folder), "checkpointFolder": str(folder / "checkpoints")})
    assert trainer.run(other).code == ExitCode.DONE
    assert again.weights() == other.weights()
    assert without_time(again.lines("metrics.jsonl")) == without_time(other.lines("metrics.jsonl"))


def test_stopped_in_the_middle_of_a_write_both_are_saved(
    trainer: WarmTrainer, small_run: ARun, running: Callable[[Attempt], Attempt]
) -> None:
    """The status tells of a checkpoint only once it is there."""
    run = saving_run(small_run, steps=60).with_("checkpoint", everySteps=50, keepLast=2).with_processes(2)
    run = run.with_("checkpoint", everySteps=4)
    attempt = running(trainer.start(run, slow_saves.slow))
    attempt.until(lambda: being_written(run, "step-4"), "a write")
    assert "checkpoint" not in run.read("status.json")
    attempt.send(signal.SIGTERM)
    ended = attempt.end()
    assert (ended.code, ended.outcome.checkpoint is not None) == (ExitCode.PREEMPTED, True), ended.log
    first, last = steps_of(run)
    step = run.read("status.json")["checkpoint"]["step"]
    assert (first, last) == ("step-4", f"step-{step}")
    assert ended.outcome.failure is not None
    assert f"saved at step {step} of 60" in ended.outcome.failure.message
    assert not list(run.checkpoints.glob(".tmp-*"))


def test_an_attempt_that_is_superseded_ends_at_its_next_save(
    trainer: WarmTrainer, small_run: ARun, running: Callable[[Attempt], Attempt]
) -> None:
    run = saving_run(small_run, steps=200)
    attempt = running(trainer.start(run))
    attempt.until(lambda: steps_of(run), "a checkpoint")
    claim(run.checkpoints, Owner(run.config["job"]["uid"], 1, 2))
    kept = steps_of(run)
    ended = attempt.end()
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.PREEMPTED, "Superseded"), ended.log
    assert set(steps_of(run)) <= {*kept, f"step-{int(kept[-1][5:]) + 4}"}


def test_where_memory_is_short_training_waits(trainer: WarmTrainer, small_run: ARun) -> None:
    """It says so once; the checkpoints are as good."""
    run = saving_run(small_run, steps=9).with_("evaluation", strategy="Steps", steps=4)
    ended = trainer.run(run, slow_saves.short_of_memory)
    assert ended.code == ExitCode.DONE, ended.log
    assert ended.log.count("memory is short: training stands still while checkpoints are written") == 1
    assert steps_of(run) == ["step-8", "step-9"]


def test_stopped_while_it_writes_its_results_it_ends_at_once(
    trainer: WarmTrainer, small_run: ARun, running: Callable[[Attempt], Attempt]
) -> None:
    """They are written again by the next attempt, which has its last step."""
    run = saving_run(small_run, steps=3)
    attempt = running(trainer.start(run, slow_saves.slow_to_conclude))
    attempt.until((run.folder / "evaluation.json").exists, "results")
    started = time.monotonic()
    attempt.send(signal.SIGTERM)
    ended = attempt.end()
    assert time.monotonic() - started < 30
    failure = ended.outcome.failure
    assert failure is not None
    assert (ended.code, failure.class_) == (ExitCode.PREEMPTED, FailureClass.PREEMPTED), ended.log
    again = next_attempt(run)
    assert trainer.run(again).code == ExitCode.DONE
    checkpoint = again.read("status.json")["checkpoint"]
    assert (checkpoint["resumedFromStep"], checkpoint["uri"]) == (3, str(run.checkpoints / "step-3"))
    assert len([line for line in again.lines("metrics.jsonl") if "test_loss" in line]) == 1


def test_what_one_process_does_alone_is_interrupted() -> None:
    from finetune_trainer.training.stop import StopFlag, StopRequested

    before = signal.getsignal(signal.SIGTERM)
    flag = StopFlag()
    try:
        flag.install()
        with pytest.raises(StopRequested), flag.interrupting():
            signal.raise_signal(signal.SIGTERM)
        assert flag.requested
        with pytest.raises(StopRequested), flag.interrupting():
            raise AssertionError("a request that came before holds, too")
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_preparation_that_cannot_be_interrupted_does_not_keep_the_pod() -> None:
    """As when a library waits for its threads that download: another thread ends the attempt."""
    from finetune_trainer.errors import Preempted
    from finetune_trainer.supervisor import StopRequest

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    given_up = threading.Event()

    def download(stop: StopRequest) -> None:
        with stop.interrupting(lambda _: given_up.set(), 0.2):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                assert given_up.wait(10)

    try:
        with pytest.raises(Preempted, match="asked to stop before training began"):
            download(StopRequest())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
