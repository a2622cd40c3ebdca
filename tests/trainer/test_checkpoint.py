"""A checkpoint is whole or it is not resumed from, old ones go, and a superseded attempt publishes nothing."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.errors import Preempted, RunError, StorageFull, Unavailable
from finetune_trainer.training import checkpoint
from finetune_trainer.training.checkpoint import BEST, CheckpointStore, Found, Owner, Rejected, claim, expired

OWNER = Owner("uid", 1, 1)


def a_store(folder: Path, owner: Owner = OWNER, fingerprint: str = "f", keep_last: int = 2) -> CheckpointStore:
    claim(folder, owner)
    return CheckpointStore(folder, owner, fingerprint, keep_last)


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(b"weights")
    (folder / "state").write_text("state")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(st.sets(st.integers(0, 10_000)), st.integers(1, 5))
def test_the_newest_stay(steps: set[int], keep_last: int) -> None:
    gone = expired(steps, keep_last)
    kept = steps - set(gone)
    assert len(kept) == min(keep_last, len(steps))
    assert all(old < new for old in gone for new in kept)


def test_publish_keeps_the_last_and_leaves_nothing_else(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for step in (5, 10, 100):
        store.publish(step, write)
    assert names(tmp_path) == ["FENCE", "step-10", "step-100"]
    assert store.newest() == Found(tmp_path / "step-100", ())


def test_a_step_that_is_there_and_whole_is_not_written_again(tmp_path: Path) -> None:
    """A resumed run passes the same steps; what is published is never touched."""
    store = a_store(tmp_path)
    path = store.publish(5, write)

    def fail(folder: Path) -> None:
        raise AssertionError(folder)

    assert store.publish(5, fail) == path


def tear(folder: Path) -> None:
    (folder / "weights").write_bytes(b"wei")


def tamper(folder: Path) -> None:
    (folder / "weights").write_bytes(b"WEIGHTS")


def lose(folder: Path) -> None:
    (folder / "state").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"step": 9, "fi')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(tear, "weights is not whole", id="torn"),
        pytest.param(tamper, "weights is not what was written", id="tampered"),
        pytest.param(lose, "state is not whole", id="file lost"),
        pytest.param(lose_manifest, "it has no readable manifest", id="manifest torn"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage: object, reason: str, tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for step in (9, 10):
        store.publish(step, write)
    assert callable(damage)
    damage(tmp_path / "step-10")
    assert store.newest() == Found(tmp_path / "step-9", (Rejected("step-10", reason),))
    assert store.publish(10, write) == tmp_path / "step-10"
    assert store.newest() == Found(tmp_path / "step-10", ())


def test_checkpoints_of_another_run_are_not_resumed_from(tmp_path: Path) -> None:
    a_store(tmp_path).publish(5, write)
    found = a_store(tmp_path, fingerprint="another").newest()
    assert found == Found(None, (Rejected("step-5", "it belongs to a run of another configuration, data or model"),))


@pytest.mark.parametrize(
    ("later", "superseded"),
    [
        pytest.param(Owner("uid", 1, 2), True, id="next attempt"),
        pytest.param(Owner("uid", 2, 1), True, id="next run"),
        pytest.param(Owner("uid", 1, 1), False, id="itself again"),
        pytest.param(Owner("uid", 1, 0), False, id="an earlier attempt"),
        pytest.param(Owner("other", 9, 9), False, id="another object took the folder over"),
    ],
)
def test_claim_gives_way_to_a_later_attempt_only(later: Owner, superseded: bool, tmp_path: Path) -> None:
    claim(tmp_path, later)
    if superseded:
        with pytest.raises(Preempted, match="the checkpoints now belong to run"):
            claim(tmp_path, OWNER)
    else:
        claim(tmp_path, OWNER)


@pytest.mark.parametrize(
    "later", [pytest.param(Owner("uid", 1, 2), id="next attempt"), pytest.param(Owner("other", 1, 1), id="new object")]
)
def test_a_superseded_attempt_publishes_nothing(later: Owner, tmp_path: Path) -> None:
    """Also when the other one comes while the files are written: the fence is read just before the rename."""
    store = a_store(tmp_path)

    def overtaken(folder: Path) -> None:
        write(folder)
        claim(tmp_path, later)

    with pytest.raises(Preempted) as caught:
        store.publish(5, overtaken)
    assert caught.value.reason == "Superseded"
    assert names(tmp_path) == ["FENCE"]


def test_leftovers_of_a_killed_attempt_go(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-5-123").mkdir()
    a_store(tmp_path)
    assert names(tmp_path) == ["FENCE"]


def published_best(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("best-*"))


def test_the_best_weights_stay_as_long_as_a_checkpoint_may_need_them(tmp_path: Path) -> None:
    """Who resumes from step 10 finds best-8, although best-12 is better; with step 10 it goes."""
    store = a_store(tmp_path, keep_last=1)
    store.publish(8, write, [8], BEST)
    store.publish(10, write, [8])
    store.publish(12, write, [12], BEST)
    assert published_best(tmp_path) == ["best-12", "best-8"]
    store.publish(20, write, [12])
    assert published_best(tmp_path) == ["best-12"]
    assert store.best(12) == tmp_path / "best-12"
    assert store.best(8) is None


def test_best_weights_that_no_checkpoint_knows_go_at_once(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for step in (4, 8):
        store.publish(step, write, [step], BEST)
    assert published_best(tmp_path) == ["best-8"]


def test_best_weights_of_steps_that_will_come_again_are_forgotten(tmp_path: Path) -> None:
    """They were made by an attempt that may have computed otherwise."""
    store = a_store(tmp_path)
    store.publish(8, write, [8], BEST)
    store.publish(12, write, [8, 12], BEST)
    store.forget_after(8)
    assert published_best(tmp_path) == ["best-8"]
    assert store.newest() == Found(None, ())


def test_damaged_best_weights_are_not_there(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    tear(store.publish(8, write, [8], BEST))
    assert store.best(8) is None


def test_a_full_disk_is_told_of_and_left_as_it_was(tmp_path: Path) -> None:
    """What was written of the checkpoint would only take room."""

    def full(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with pytest.raises(StorageFull) as caught:
        a_store(tmp_path).publish(5, full)
    assert caught.value.message == f"cannot write checkpoints to {tmp_path}: no space is left on its volume"
    assert "keepLast" in (caught.value.hint or "")
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_disk_that_cannot_be_written_to_is_unavailable(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    with pytest.raises(Unavailable) as caught:
        a_store(tmp_path).publish(5, broken)
    assert caught.value.message == f"cannot write checkpoints to {tmp_path}: Input/output error"


def part(rank: int) -> Callable[[Path], None]:
    return lambda folder: (folder / f"weights-{rank}").write_text(f"of {rank}") and None


def full(folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def outcomes(works: list[Callable[[], Path]]) -> list[str]:
    """What each process comes to, all at once: a name, or the reason why not."""

    def outcome(work: Callable[[], Path]) -> str:
        try:
            return work().name
        except RunError as error:
            return error.reason

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(outcome, works))


def test_the_parts_of_all_processes_become_one_checkpoint(tmp_path: Path) -> None:
    """Whoever is first waits for the others; no process's mark stays."""
    main, *others = stores = [a_store(tmp_path) for _ in range(3)]
    assert outcomes(
        [
            lambda: others[1].contribute(5, 2, part(2)),
            lambda: others[0].contribute(5, 1, part(1)),
            lambda: main.publish(5, part(0), peers=2),
        ]
    ) == ["step-5"] * len(stores)
    assert names(tmp_path / "step-5") == ["manifest.json", "weights-0", "weights-1", "weights-2"]
    assert list(json.loads((tmp_path / "step-5" / "manifest.json").read_text())["files"]) == [
        "weights-0",
        "weights-1",
        "weights-2",
    ]
    assert main.newest() == Found(tmp_path / "step-5", ())


@pytest.mark.parametrize(
    ("mine", "theirs", "reasons"),
    [
        pytest.param(part(0), full, ["PeerLost", "StorageFull"], id="that of another process"),
        pytest.param(full, part(1), ["StorageFull", "PeerLost"], id="that of the main process"),
    ],
)
def test_a_part_that_cannot_be_written_is_the_end_of_all(
    mine: Callable[[Path], None], theirs: Callable[[Path], None], reasons: list[str], tmp_path: Path
) -> None:
    """Whoever could not write it says why; the others only that they lost a peer. Nothing is left."""
    main, other = a_store(tmp_path), a_store(tmp_path)
    begun, gone = threading.Event(), threading.Event()

    def write_mine(folder: Path) -> None:
        begun.wait(10)
        mine(folder)

    def write_theirs(folder: Path) -> None:
        begun.set()
        if mine is full:
            gone.wait(10)
        theirs(folder)

    def publish() -> Path:
        try:
            return main.publish(5, write_mine, peers=1)
        finally:
            gone.set()

    assert outcomes([publish, lambda: other.contribute(5, 1, write_theirs)]) == reasons
    assert names(tmp_path) == ["FENCE"]


def test_nobody_waits_for_ever_for_a_process_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PEER_SECONDS", 0.2)
    for work in (
        lambda store: store.publish(5, part(0), peers=1),
        lambda store: store.contribute(5, 1, part(1)),
    ):
        store = a_store(tmp_path)
        store.give_up()
        with pytest.raises(Unavailable) as caught:
            work(store)
        assert caught.value.reason == "PeerLost"
    assert names(tmp_path) == ["FENCE"]


def test_writing_and_hashing_are_signs_of_work(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    seen = [store.progress()]

    def look(folder: Path) -> None:
        for size in (10, 20):
            (folder / "weights").write_bytes(bytes(size))
            seen.append(store.progress())

    store.publish(5, look)
    seen.append(store.progress())
    assert len(set(seen)) == len(seen)
