"""A checkpoint that is torn or tampered with is never resumed from: the one before is, and the log says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import ExitCode
from support.killing import in_folder, next_attempt, resumed_step, what_is_left
from support.runs import ARun, WarmTrainer, a_run

pytestmark = pytest.mark.torch
GOOD = 4
"""The newest checkpoint that is left alone."""
FILES = ("model.safetensors", "optimizer.pt", "state.json")
FOREIGN = "it belongs to a run of another configuration, data or model"
NO_MANIFEST = "it has no readable manifest"
Damage = Callable[[Path], None]


def truncated(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def flipped(name: str) -> Damage:
    """One bit of the byte in the middle."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def lost(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def manifest(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Still JSON, but not what was written."""

    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


DAMAGES: Mapping[str, tuple[Damage, str]] = {
    **{f"{name} truncated": (truncated(name), f"{name} is not whole") for name in FILES},
    **{f"{name} with a bit flipped": (flipped(name), f"{name} is not what was written") for name in FILES},
    **{f"{name} lost": (lost(name), f"{name} is not whole") for name in FILES},
    "manifest lost": (lost("manifest.json"), NO_MANIFEST),
    "manifest truncated": (truncated("manifest.json"), NO_MANIFEST),
    "manifest without files": (manifest(lambda document: {**document, "files": None}), NO_MANIFEST),
    "manifest that is a list": (manifest(lambda document: [document]), NO_MANIFEST),
    "manifest of another run": (manifest(lambda document: document | {"fingerprint": "another"}), FOREIGN),
}
STEPS = GOOD + len(DAMAGES)


@pytest.fixture(scope="module")
def saved(
    trainer: WarmTrainer, rows: Path, models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> ARun:
    """A finished run with a checkpoint of every step."""
    run = a_run(tmp_path_factory.mktemp("saved"), rows.as_uri(), models("bert").as_uri(), maxSteps=STEPS)
    run = run.with_("evaluation", strategy="Never").with_("checkpoint", everySteps=1, keepLast=STEPS)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return run


def unfinished(saved: ARun, root: Path) -> ARun:
    """The run's next attempt, as if the first had been killed after its last step."""
    shutil.copytree(saved.folder, root / "run", ignore=shutil.ignore_patterns("outcome.json", "model"))
    return next_attempt(in_folder(saved, root))


def steps(run: ARun) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*"))


def test_every_damage_falls_back_to_the_one_before(saved: ARun, trainer: WarmTrainer, tmp_path: Path) -> None:
    """As many checkpoints, each broken in its own way: all are named with their reason, and the run goes on from the
    last good one to the same bytes.
    """
    run = unfinished(saved, tmp_path)
    assert steps(run) == list(range(1, STEPS + 1))
    for step, (damage, _) in enumerate(DAMAGES.values(), start=GOOD + 1):
        damage(run.checkpoints / f"step-{step}")
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    for step, (name, (_, reason)) in enumerate(DAMAGES.items(), start=GOOD + 1):
        assert f"checkpoint step-{step} is of no use: {reason}" in ended.log, name
    assert resumed_step(run) == GOOD
    assert what_is_left(run) == what_is_left(saved)


def test_a_damaged_checkpoint_does_not_push_out_those_to_come(
    saved: ARun, trainer: WarmTrainer, tmp_path: Path
) -> None:
    """With one that is kept: what is saved on the way to its step is there for the attempt after."""
    run = unfinished(saved, tmp_path).with_("checkpoint", everySteps=4, keepLast=1)
    for step in steps(run)[:-1]:
        shutil.rmtree(run.checkpoints / f"step-{step}")
    truncated("model.safetensors")(run.checkpoints / f"step-{STEPS}")
    attempt = trainer.start(run)
    attempt.until(lambda: 0 < min(steps(run), default=0) < STEPS, "a save")
    attempt.vanish()
    run = next_attempt(run)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    assert resumed_step(run) in (4, 8, 12, 16)
    assert what_is_left(run) == what_is_left(saved)


def test_without_a_good_one_it_starts_over(saved: ARun, trainer: WarmTrainer, tmp_path: Path) -> None:
    """And says so."""
    run = unfinished(saved, tmp_path)
    for step in steps(run):
        flipped("optimizer.pt")(run.checkpoints / f"step-{step}")
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    assert f"none of {STEPS} checkpoints can be resumed from; the run starts over" in ended.log
    assert resumed_step(run) == 0
    assert what_is_left(run) == what_is_left(saved)
