"""Whether there is another attempt after a fault, what it costs, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_api.policy import Action, FaultRule, RunPolicy
from finetune_api.progress import BUDGETS, Budget, Failure, FailureClass
from finetune_api.status import Restarts

FIRST_BACKOFF_SECONDS: Final = 10
MAX_BACKOFF_SECONDS: Final = 300
MAX_INFRA_BACKOFF_SECONDS: Final = 5
BLAMES_NODE: Final = FailureClass.HARDWARE_ERROR
"""A class whose node is not used again in the run, without any rule."""


@dataclass(frozen=True)
class Verdict:
    """What follows a fault. `budget` is what a restart counts against; None where it counts against none."""

    restart: bool
    why: str = ""
    budget: Budget | None = None
    exclude_node: bool = False


def judge(failure: Failure, rule: FaultRule | None, before: Restarts, policy: RunPolicy) -> Verdict:
    """What follows `failure`, after `before` restarts; the rule that fits it goes before the class's own budget."""
    exclude = failure.class_ is BLAMES_NODE or (rule is not None and rule.action is Action.EXCLUDE_NODE)
    if rule is not None and rule.action is Action.FAIL:
        return Verdict(restart=False, why=f"rule {rule.name} of spec.runPolicy.rules: Fail")
    if rule is not None and rule.action is Action.RESTART_IGNORE_LIMIT:
        return Verdict(restart=True, why=_by(rule), exclude_node=exclude)
    budget = BUDGETS[failure.class_]
    if budget is Budget.FINAL and rule is None:
        return Verdict(restart=False, why=f"{failure.class_} is not retried")
    budget = Budget.PROGRAM if budget is Budget.FINAL else budget
    if used := _used_up(budget, before, policy):
        return Verdict(restart=False, why=used)
    return Verdict(restart=True, why=_by(rule) if rule else "", budget=budget, exclude_node=exclude)


def _by(rule: FaultRule) -> str:
    return f"rule {rule.name}: {rule.action}"


def _used_up(budget: Budget, before: Restarts, policy: RunPolicy) -> str | None:
    if budget is Budget.PROGRAM and before.program >= policy.backoff_limit:
        return f"spec.runPolicy.backoffLimit {policy.backoff_limit} is used up"
    if budget is Budget.INFRASTRUCTURE and before.infra >= policy.infra_backoff_limit:
        return f"spec.runPolicy.infraBackoffLimit {policy.infra_backoff_limit} is used up"
    return None


def of_this_kind(class_: FailureClass, restarts: Restarts) -> int:
    """How many of the restarts were for the same kind of fault: the infrastructure's, or all others."""
    infra = BUDGETS[class_] is Budget.INFRASTRUCTURE
    return restarts.infra if infra else max(0, restarts.total - restarts.infra)


def backoff_seconds(class_: FailureClass, former: int) -> float:
    """Seconds between the end of an attempt with a fault of this class and the next, after `former` of its kind."""
    if BUDGETS[class_] is Budget.INFRASTRUCTURE:
        return float(min(MAX_INFRA_BACKOFF_SECONDS, former))
    return min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(former, 16))
