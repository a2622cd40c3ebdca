"""Waiting for a cluster to do something, and telling what it did instead."""

import time
from collections.abc import Callable
from typing import TypeVar

from support.cluster.access import Access

Found = TypeVar("Found")


class TimedOut(AssertionError):
    """What was waited for did not come; the message shows the namespace as it is."""


def wait_for(
    cluster: Access, namespace: str, predicate: Callable[[], Found | None], seconds: float, what: str
) -> Found:
    """The first true value of the predicate; raises TimedOut with all that is known of the namespace."""
    deadline = time.monotonic() + seconds
    while not (found := predicate()):
        if time.monotonic() > deadline:
            raise TimedOut(f"{what} did not come within {seconds:g} s.\n{cluster.describe(namespace)}")
        time.sleep(0.25)
    return found
