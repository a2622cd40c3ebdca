"""The work queue: a key once, one worker a key, the most urgent first, back-off after errors."""

import asyncio
from dataclasses import dataclass

import pytest

from finetune_operator.shell.queue import MAX_RETRY_SECONDS, WorkQueue


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def a_queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock, jitter=lambda: 1.0)


async def soon(queue: WorkQueue[str]) -> str | None:
    """The next key, or None where none is due."""
    try:
        return await asyncio.wait_for(queue.get(), 0.02)
    except TimeoutError:
        return None


async def test_a_key_that_is_added_twice_comes_once() -> None:
    queue = a_queue(Clock())
    await queue.add("a")
    await queue.add("a")
    assert [await soon(queue), await soon(queue)] == ["a", None]


async def test_keys_come_in_the_order_in_which_they_are_due() -> None:
    clock = Clock()
    queue = a_queue(clock)
    await queue.add("late", after=2)
    await queue.add("early", after=1)
    assert await soon(queue) is None
    clock.now = 3
    assert [await soon(queue), await soon(queue)] == ["early", "late"]


async def test_an_earlier_date_wins_and_a_later_one_does_not_delay() -> None:
    clock = Clock()
    queue = a_queue(clock)
    await queue.add("a", after=100)
    await queue.add("a", after=1)
    await queue.add("a", after=50)
    clock.now = 1
    assert await soon(queue) == "a"
    clock.now = 200
    assert await soon(queue) is None


async def test_a_key_is_worked_on_by_one_worker_at_a_time() -> None:
    queue = a_queue(Clock())
    await queue.add("a")
    assert await soon(queue) == "a"
    await queue.add("a")
    await queue.add("b")
    assert [await soon(queue), await soon(queue)] == ["b", None]
    await queue.done("a")
    assert await soon(queue) == "a"


async def test_done_may_ask_to_look_again() -> None:
    clock = Clock()
    queue = a_queue(clock)
    await queue.add("a")
    await queue.get()
    await queue.done("a", again_after=5)
    assert await soon(queue) is None
    clock.now = 5
    assert await soon(queue) == "a"


async def test_errors_back_off_and_success_forgets_them() -> None:
    clock = Clock()
    queue = a_queue(clock)
    delays = []
    for _ in range(12):
        await queue.add("a")
        clock.now += 1000
        await queue.get()
        delays.append(await queue.retry("a"))
    assert delays[:4] == [0.5, 1, 2, 4]
    assert delays[-1] == MAX_RETRY_SECONDS
    clock.now += 1000
    await queue.get()
    await queue.done("a")
    await queue.add("a")
    await queue.get()
    assert await queue.retry("a") == 0.5


async def test_the_server_may_ask_for_a_longer_pause() -> None:
    queue = a_queue(Clock())
    await queue.add("a")
    await queue.get()
    assert await queue.retry("a", at_least=7) == 7


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_waiting_worker_wakes_for_a_new_key(workers: int) -> None:
    queue = a_queue(Clock())
    waiting = [asyncio.create_task(queue.get()) for _ in range(workers)]
    await asyncio.sleep(0)
    for number in range(workers):
        await queue.add(str(number))
    assert sorted(await asyncio.gather(*waiting)) == [str(number) for number in range(workers)]


async def test_a_waiting_worker_wakes_when_a_key_becomes_due() -> None:
    loop = asyncio.get_running_loop()
    queue: WorkQueue[str] = WorkQueue(loop.time, jitter=lambda: 0.0)
    await queue.add("a", after=0.05)
    assert await asyncio.wait_for(queue.get(), 2) == "a"


async def test_depth_and_age_count_what_is_due() -> None:
    clock = Clock()
    queue = a_queue(clock)
    await queue.add("now")
    await queue.add("later", after=10)
    clock.now = 3
    assert (len(queue), queue.oldest_age()) == (1, 3)
    await queue.get()
    assert (len(queue), queue.oldest_age()) == (0, 0)
