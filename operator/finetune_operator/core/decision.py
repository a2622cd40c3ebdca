"""What a pass decides: what to do, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from finetune_api.progress import Budget, Failure, FailureClass, Outcome
from finetune_api.status import Phase
from finetune_operator.core.plan import Plan
from finetune_operator.core.text import failure

CHILD_INVALID: Final = "ChildInvalid"


@dataclass(frozen=True)
class Closed:
    """The end of the current attempt, for the history and the budgets."""

    result: str
    failure: Failure | None = None
    outcome: Outcome | None = None
    restart: bool = False
    """Whether the next attempt is a restart, which counts against `budget` if there is one."""
    budget: Budget | None = None
    exclude_node: bool = False
    reason: str | None = None
    message: str | None = None
    nodes: int | None = None
    """Nodes that could be had, where the attempt ended for lack of more."""


@dataclass(frozen=True)
class Decision:
    """What to do, and what to say of it."""

    phase: Phase
    reason: str
    message: str = ""
    start: Plan | None = None
    """Create the children of this attempt."""
    fetch: bool = False
    """Of those to start, only the one that downloads."""
    stop: tuple[str, ...] = ()
    """Delete these Jobs."""
    clean: tuple[str, ...] = ()
    """Delete all children of these names."""
    closed: Closed | None = None
    failure: Failure | None = None
    stalled: bool = False
    outcome: Outcome | None = None
    keep: bool = False
    """Leave the status as it is."""
    confirm: bool = False
    """Read the children again first: a watch may be behind, and this cannot be taken back."""
    requeue_after: float | None = None
    look: bool = False
    """Read the Events about the children first: they may tell why there are no pods, or why those do not start."""


def stalled(phase: Phase, failure: Failure) -> Decision:
    return Decision(phase, failure.reason, failure.message, failure=failure, stalled=True)


def refused_by_server(decision: Decision, message: str, *, final: bool) -> Decision:
    """`decision` after the API server refused a child; `final` where asking again cannot help."""
    class_ = FailureClass.CONFIG_ERROR if final else FailureClass.CHILD_REFUSED
    reason = CHILD_INVALID if final else "QuotaExceeded" if "exceeded quota" in message else "ChildRefused"
    hint = (
        "correct the field, mostly in spec.podTemplate, and apply the manifest again"
        if final
        else "it is tried again; ask the namespace's administrator for quota or permission"
    )
    said = failure(class_, reason, f"the API server refused a child of the job: {message}", hint)
    phase = Phase.FAILED if final else decision.phase
    return replace(stalled(phase, said), closed=decision.closed)
