"""A work queue of keys: each once, one worker a key at a time, delays, and back-off after errors."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 300.0


class WorkQueue(Generic[K]):
    """Keys to work on, the most urgent first.

    `clock` gives seconds that never go back; `jitter` a number from 0 to 1 by which retries are spread.
    """

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._clock = clock
        self._jitter = jitter
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        """Keys that could be worked on now."""
        now = self._clock()
        return sum(due <= now for due in self._due.values())

    def __contains__(self, key: K) -> bool:
        """Whether the key will be worked on, now or later."""
        return key in self._due

    def oldest_age(self) -> float:
        """Seconds for which the most urgent key has been waiting."""
        return max(0.0, self._clock() - min(self._due.values(), default=self._clock()))

    async def add(self, key: K, after: float = 0.0) -> None:
        """Work on `key` in `after` seconds; an earlier date that it already has stays."""
        due = self._clock() + after
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        async with self._changed:
            self._changed.notify_all()

    async def get(self) -> K:
        """The next key that is due and not being worked on; call `done` or `retry` afterwards."""
        async with self._changed:
            while True:
                key, wait = self._next()
                if key is not None:
                    del self._due[key]
                    self._busy.add(key)
                    return key
                await self._wait(wait)

    def _next(self) -> tuple[K | None, float | None]:
        """A key, or the seconds until one is due."""
        held = []
        try:
            while self._heap:
                due, _, key = self._heap[0]
                if self._due.get(key) != due:
                    heapq.heappop(self._heap)
                elif due > self._clock():
                    return None, due - self._clock()
                elif key in self._busy:
                    held.append(heapq.heappop(self._heap))
                else:
                    heapq.heappop(self._heap)
                    return key, None
            return None, None
        finally:
            for entry in held:
                heapq.heappush(self._heap, entry)

    async def _wait(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    async def done(self, key: K, again_after: float | None = None) -> None:
        """The work on `key` succeeded; look at it again in `again_after` seconds."""
        self._failures.pop(key, None)
        await self._release(key, again_after)

    async def retry(self, key: K, at_least: float = 0.0) -> float:
        """The work on `key` failed: it comes again after a back-off, whose seconds are returned."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
        delay = max(at_least, delay * (0.5 + self._jitter() / 2))
        await self._release(key, delay)
        return delay

    async def _release(self, key: K, again_after: float | None) -> None:
        self._busy.discard(key)
        if again_after is not None:
            await self.add(key, again_after)
        async with self._changed:
            self._changed.notify_all()
