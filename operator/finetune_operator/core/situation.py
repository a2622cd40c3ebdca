"""All that a decision is made from, and the questions that every rule asks of it."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.names import attempt_name
from finetune_api.status import Phase, Restarts
from finetune_operator.core import job as jobs
from finetune_operator.core.job import CurrentRun, Job
from finetune_operator.core.observe import Bucket, ChildJob, JobState, Observed, Pod
from finetune_operator.core.plan import Plan, Refused


@dataclass(frozen=True)
class Situation:
    """All that a decision is made from."""

    job: Job
    current: CurrentRun
    plan: Plan | Refused | None
    observed: Observed
    now: str
    stepped_at: str | None = None
    """When the run was last seen to make a step; None where nobody has told."""

    @property
    def index(self) -> int:
        return self.current.run.index

    @property
    def attempt(self) -> int:
        return self.current.attempt

    @property
    def name(self) -> str:
        """Name of the current attempt's children."""
        return attempt_name(self.job.name, self.job.uid, self.index, self.attempt)

    @property
    def fetching(self) -> bool:
        """Whether the attempt is still in the stage that only downloads."""
        downloads = self.observed.fetching
        if downloads is None or downloads.job(self.index, self.attempt) is None:
            return False
        return self.observed.state(self.index, self.attempt) is JobState.ABSENT

    @property
    def stage(self) -> Observed:
        """The children that count now: those that download, then those that train."""
        downloads = self.observed.fetching
        return downloads if downloads is not None and self.fetching else self.observed

    @property
    def children(self) -> tuple[ChildJob, ...]:
        """All Jobs of the job, whatever they are for."""
        return (*self.observed.jobs, *(self.observed.fetching.jobs if self.observed.fetching else ()))

    @property
    def child(self) -> ChildJob | None:
        return self.stage.job(self.index, self.attempt)

    @property
    def state(self) -> JobState:
        return self.stage.state(self.index, self.attempt)

    @property
    def pods(self) -> tuple[Pod, ...]:
        return self.stage.of(self.index, self.attempt)

    @property
    def nodes(self) -> int:
        """Pods that the attempt is to have."""
        return 1 if self.fetching else self.plan.nodes if isinstance(self.plan, Plan) else 0

    @property
    def up(self) -> int:
        """Pods that run, or have done so to their end."""
        return sum(pod.ready or pod.bucket is Bucket.SUCCEEDED for pod in self.pods)

    @property
    def gpus(self) -> int:
        return self.plan.nodes * self.plan.config.resources.gpus_per_node if isinstance(self.plan, Plan) else 0

    @property
    def closed(self) -> bool:
        """Whether the current attempt is over and counted."""
        return jobs.closed(self.job, self.index, self.attempt)

    @property
    def has_trained(self) -> bool:
        """Whether an earlier attempt of this run came as far as training."""
        return any(record.run == self.index and record.nodes for record in self.job.status.history)

    @property
    def has_run(self) -> bool:
        """Whether all pods of this run have been up together once."""
        return bool(self.job.status.usage and self.job.status.usage.running_seconds)

    @property
    def restarting(self) -> bool:
        return self.job.status.phase is Phase.RESTARTING

    @property
    def restarts(self) -> Restarts:
        return (self.current.started and self.job.status.restarts) or Restarts()
