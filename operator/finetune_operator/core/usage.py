"""What a run has taken: counted from the status before and after a pass, when a phase or an attempt ends."""

from __future__ import annotations

from finetune_api.progress import Checkpoint, Progress
from finetune_api.status import ConditionType, Phase, Status, Usage
from finetune_operator.core.times import elapsed


def seconds_in(status: Status, phase: Phase, now: str) -> float:
    """Seconds since the job came into `phase`; 0 where it is in another one."""
    if status.phase is not phase:
        return 0.0
    since = next((item.last_transition_time for item in status.conditions if item.type is ConditionType.RUNNING), now)
    return max(0.0, elapsed(since, now))


def running_seconds(status: Status, now: str) -> float:
    """Seconds of running over all attempts, the present one with them."""
    before = status.usage.running_seconds if status.usage else 0
    return before + seconds_in(status, Phase.RUNNING, now)


def counted(before: Status, after: Phase, gpus: int, now: str) -> Usage:
    """The usage once the job goes from the status `before` into phase `after`, on `gpus` GPUs."""
    usage = before.usage or Usage()
    if before.phase is after:
        return usage
    ran = round(seconds_in(before, Phase.RUNNING, now))
    return usage.model_copy(
        update={
            "running_seconds": usage.running_seconds + ran,
            "gpu_seconds": usage.gpu_seconds + gpus * ran,
            "queued_seconds": usage.queued_seconds + round(seconds_in(before, Phase.QUEUED, now)),
        }
    )


def lost_steps(progress: Progress | None, checkpoint: Checkpoint | None) -> int:
    """Steps that were done and that no checkpoint has."""
    done = (progress.step if progress else None) or 0
    kept = (checkpoint.step if checkpoint else None) or 0
    return max(0, done - kept)


def lost_seconds(before: Status, checkpoint: Checkpoint | None, now: str) -> int:
    """Seconds of the attempt's running of which no checkpoint has anything."""
    ran = seconds_in(before, Phase.RUNNING, now)
    saved = checkpoint.time if checkpoint else None
    return round(min(ran, max(0.0, elapsed(saved, now))) if saved else ran)
