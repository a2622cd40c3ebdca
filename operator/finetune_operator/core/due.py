"""When something is due that no event tells of: deadlines, hangs, starts that take too long, another look."""

from __future__ import annotations

from typing import Final

from finetune_api.status import Phase
from finetune_operator.core import elastic
from finetune_operator.core.observe import JobState
from finetune_operator.core.plan import Plan
from finetune_operator.core.situation import Situation
from finetune_operator.core.times import elapsed
from finetune_operator.core.usage import running_seconds, seconds_in

FIRST_LOOK_SECONDS: Final = 2
"""How soon to ask why there are no pods yet: a quota refuses them at once, and only an Event tells."""
MAX_LOOK_SECONDS: Final = 300


def deadline_left(s: Situation) -> float | None:
    most = s.job.policy.active_deadline_seconds
    return None if most is None else most - running_seconds(s.job.status, s.now)


def hang_left(s: Situation) -> float | None:
    """Seconds until a program that is not ours counts as hanging; ours watches itself."""
    most = s.job.policy.hang_timeout_seconds
    known = isinstance(s.plan, Plan) and s.plan.trainer.own_program and s.job.status.phase is Phase.RUNNING
    return most - elapsed(s.stepped_at, s.now) if known and most and s.stepped_at else None


def grow_left(s: Situation) -> float | None:
    if s.closed or s.job.status.phase is not Phase.RUNNING or not isinstance(s.plan, Plan):
        return None
    wait = elastic.grow_after(s.plan, s.job.status.history)
    return None if wait is None else wait - seconds_in(s.job.status, Phase.RUNNING, s.now)


def starting_for(s: Situation) -> float | None:
    """Seconds since the current attempt may have pods; None once all have run, or while its queue holds it."""
    child = s.child
    if s.closed or child is None or child.state is not JobState.ACTIVE or child.started is None:
        return None
    if s.job.status.phase is Phase.RUNNING or (s.nodes and s.up >= s.nodes):
        return None
    return elapsed(child.started, s.now)


def next_look(s: Situation) -> float | None:
    """Seconds until something can be due that no event tells of."""
    times = [s.observed.next_check, deadline_left(s), hang_left(s), grow_left(s)]
    waited = starting_for(s)
    if waited is not None:
        times += [s.job.policy.start_timeout_seconds - waited]
        times += [min(MAX_LOOK_SECONDS, max(FIRST_LOOK_SECONDS, waited))]
        if isinstance(s.plan, Plan) and elastic.is_elastic(s.plan):
            times += [s.plan.elastic.wait_seconds - waited]
    return min((time for time in times if time is not None and time > 0), default=None)
