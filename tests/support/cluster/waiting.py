"""Waiting for a cluster to do something, and telling what it did instead."""

import time
from collections.abc import Callable
from typing import TypeVar

from support.cluster.access import Access
from support.cluster.process import CommandFailed

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
            raise TimedOut(f"{what} did not come within {seconds:g} s.\n{describe(cluster, namespace)}")
        time.sleep(0.25)
    return found


def describe(cluster: Access, namespace: str) -> str:
    """Objects, events and the end of every pod's log."""
    where = f"--namespace={namespace}"
    questions = [
        ("get", "all,finetunejobs", where, "--output=wide"),
        ("get", "events", where, "--sort-by=.lastTimestamp"),
        *(
            ("logs", where, pod["metadata"]["name"], "--tail=40", "--all-containers")
            for pod in _pods(cluster, namespace)
        ),
    ]
    return "\n".join(f"$ kubectl {' '.join(question)}\n{_answer(cluster, question)}" for question in questions)


def _pods(cluster: Access, namespace: str) -> "list[dict[str, dict[str, str]]]":
    return cluster.list("pods", namespace)


def _answer(cluster: Access, question: tuple[str, ...]) -> str:
    try:
        return cluster.kubectl(*question)
    except CommandFailed as error:
        return str(error)
