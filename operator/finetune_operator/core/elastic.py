"""How many nodes an attempt gets: all of them, or as many as could be had the last time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from finetune_api.placement import Gang
from finetune_api.status import AttemptRecord
from finetune_operator.core.plan import Plan
from finetune_operator.core.scheduling import gang

RESIZED = "Resized"
"""Result of an attempt that gave way to one with another number of nodes."""
SHRUNK, GROWN = "FewerNodes", "MoreNodes"
MOST_DOUBLINGS = 6


def is_elastic(plan: Plan) -> bool:
    return plan.elastic.min_nodes is not None


def full_size(plan: Plan) -> int:
    """Nodes that the run would like to have."""
    return (is_elastic(plan) and plan.elastic.max_nodes) or plan.nodes


def next_size(plan: Plan, history: Sequence[AttemptRecord]) -> int:
    """Nodes of the next attempt: what the last one could have had, if it gave up for lack of more."""
    last = next((record for record in reversed(history) if record.run == plan.config.job.run), None)
    shrunk = last is not None and last.result == RESIZED and last.reason == SHRUNK and last.nodes
    return last.nodes if last and shrunk and last.nodes else full_size(plan)


def placeable(plan: Plan, placed: int) -> int | None:
    """Nodes to go on with where only `placed` pods found a node in time; None where that is too few.

    A scheduler that places all or none leaves no trace of how many it could have placed: then it is the minimum.
    """
    least = plan.elastic.min_nodes
    if least is None or placed >= plan.nodes or plan.nodes <= least:
        return None
    if placed == 0 and gang(plan) is not Gang.NONE:
        return least
    return placed if placed >= least else None


def grow_after(plan: Plan, history: Sequence[AttemptRecord]) -> float | None:
    """Seconds of running after which to try more nodes; None where there are enough, or nobody asked.

    Each try in a row that came to nothing doubles them: it costs a restart.
    """
    if not (plan.elastic.grow and is_elastic(plan)) or plan.nodes >= full_size(plan):
        return None
    own = [record for record in history if record.run == plan.config.job.run]
    resized = takewhile(lambda record: record.result == RESIZED, reversed(own))
    tries = sum(record.reason == GROWN for record in resized)
    return float(plan.elastic.grow_interval_seconds * 2 ** min(tries, MOST_DOUBLINGS))
