"""Batches are put together ahead of the steps that need them, and nothing shows of it but the time that it saves."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytestmark = pytest.mark.torch


def taken(workers: int, steps: int, make: Any) -> list[Any]:
    from finetune_trainer.training.feeding import Feed

    feed = Feed(workers)
    try:
        return [feed.take(step, steps - 1, make) for step in range(steps)]
    finally:
        feed.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_every_step_is_made_once_and_comes_in_its_place(workers: int) -> None:
    made: list[int] = []

    def make(step: int) -> list[int]:
        made.append(step)
        time.sleep(0.002 * (step % 3))
        return [step]

    assert taken(workers, 20, make) == [[step] for step in range(20)]
    assert sorted(made) == list(range(20))


def test_the_next_step_is_made_while_this_one_is_computed() -> None:
    from finetune_trainer.training.feeding import Feed

    begun = {step: threading.Event() for step in range(3)}

    def make(step: int) -> list[Any]:
        begun[step].set()
        return []

    feed = Feed(1)
    feed.take(0, 2, make)
    assert begun[1].wait(5)
    feed.settle()
    assert not begun[2].is_set()
    feed.close()


def test_what_goes_wrong_in_a_row_comes_up_in_the_step_that_has_it() -> None:
    from finetune_trainer.training.feeding import Feed

    def make(step: int) -> list[Any]:
        if step == 1:
            raise ValueError("row 17")
        return []

    feed = Feed(1)
    assert feed.take(0, 5, make) == []
    feed.settle()
    with pytest.raises(ValueError, match="row 17"):
        feed.take(1, 5, make)
    feed.close()


def test_a_thread_draws_its_own_numbers_and_nobody_elses() -> None:
    """The same as after manual_seed, whatever other threads draw from torch's generator, which stays where it was."""
    import torch

    from finetune_trainer.data.augment.drawing import drawing_from

    def drawn() -> list[float]:
        numbers = [torch.rand(()), torch.randint(1000, ()), torch.empty(1).uniform_(2.0, 3.0), torch.randperm(9).sum()]
        return [*map(float, [*numbers, torch.normal(0.0, 1.0, (1,))])]

    def drawn_from(seed: int) -> list[float]:
        with drawing_from(seed):
            return [number for _ in range(50) for number in drawn()]

    torch.manual_seed(5)
    wanted = [number for _ in range(50) for number in drawn()]
    torch.manual_seed(7)
    undisturbed = drawn()
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(drawn_from, 5) for _ in range(4)]
        torch.manual_seed(7)
        own = drawn()
        assert [future.result() for future in found] == [wanted] * 4
    assert own == undisturbed


def test_what_is_evaluated_next_is_made_while_the_one_before_is_used() -> None:
    from finetune_trainer.training.feeding import ahead

    begun = {number: threading.Event() for number in range(4)}

    def make(number: int) -> int:
        begun[number].set()
        return number * number

    found = []
    for number, made in ahead(range(4), make):
        assert number == 3 or begun[number + 1].wait(5)
        found.append((number, made))
    assert found == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert list(ahead([], make)) == []


def test_an_evaluation_that_is_left_leaves_no_thread() -> None:
    from finetune_trainer.training.feeding import ahead

    for number, _ in ahead(range(100), lambda number: number):
        if number == 3:
            break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
