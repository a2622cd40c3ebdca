"""`decide`: what to do next, as a chain of rules of which the first that has an answer wins."""

from __future__ import annotations

from collections.abc import Callable

from finetune_operator.core.decision import Decision
from finetune_operator.core.ends import deadline, failed, finished, grow, hang, late, resize, succeeded, suspend
from finetune_operator.core.situation import Situation
from finetune_operator.core.starts import fetched, going_on, not_started, start

Rule = Callable[[Situation], Decision | None]

RULES: tuple[Rule, ...] = (
    finished,
    not_started,
    succeeded,
    suspend,
    fetched,
    failed,
    deadline,
    hang,
    late,
    resize,
    grow,
    start,
)


def decide(situation: Situation) -> Decision:
    for rule in RULES:
        decision = rule(situation)
        if decision is not None:
            return decision
    return going_on(situation)
