"""Nodes that the next attempt should rather not use, because attempts of the run broke on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from finetune_api.progress import FailureClass
from finetune_api.status import MAX_EXCLUDED_NODES, AttemptRecord

ATTEMPTS = 2
"""Once is chance."""
MAYBE_THE_NODES = frozenset(
    {
        FailureClass.HARDWARE_ERROR,
        FailureClass.NODE_LOST,
        FailureClass.EVICTED,  # the node ran short of memory, disk or process ids
        FailureClass.HANG,  # a device or link that stands still says nothing else
        FailureClass.COLLECTIVE_TIMEOUT,
        FailureClass.CODE_ERROR,  # a broken device shows as a crash or as wrong numbers
        FailureClass.OUT_OF_MEMORY_GPU,  # a process left behind holds the device's memory
        FailureClass.OUT_OF_MEMORY_HOST,  # neighbours without a limit
        FailureClass.STORAGE_FULL,  # the node's own disk
    }
)
"""Classes that another node may cure. An innocent node is only avoided where there is another: it is a preference."""
NEVER_THE_NODES = frozenset(
    {
        FailureClass.CONFIG_ERROR,
        FailureClass.DATA_ERROR,
        FailureClass.EVALUATION_GATE_FAILED,
        FailureClass.AUTH_ERROR,
        FailureClass.DEADLINE_EXCEEDED,
        FailureClass.UNAVAILABLE,  # hubs and stores, or a lost peer
        FailureClass.PREEMPTED,
        FailureClass.POD_DELETED,
        FailureClass.UNSCHEDULABLE,
        FailureClass.CHILD_REFUSED,
        FailureClass.IMAGE_PULL,
    }
)


def avoided_nodes(history: Sequence[AttemptRecord], run: int) -> tuple[str, ...]:
    """Nodes on which the cause of at least two attempts of `run` lay, the one that broke last first; at most 16.

    `history` is in the order of the attempts.
    """
    broken = [
        record.node
        for record in reversed(history)
        if record.run == run and record.node is not None and record.class_ in MAYBE_THE_NODES
    ]
    counts = Counter(broken)
    return tuple(node for node, count in counts.items() if count >= ATTEMPTS)[:MAX_EXCLUDED_NODES]
