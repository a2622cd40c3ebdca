"""spec.checkpoint, output and runPolicy: what is kept, and what happens after a fault, a change and the end."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finetune_api.base import Document
from finetune_api.fields import VolumeUri


class Resume(StrEnum):
    AUTO = "Auto"
    NEVER = "Never"


class OnSpecChange(StrEnum):
    RERUN = "Rerun"
    IGNORE = "Ignore"


class CheckpointPolicy(Document):
    """How often the state is saved, where, and whether a restart goes on from it."""

    uri: VolumeUri | None = Field(None, description="Volume for checkpoints; the output's volume if absent.")
    every_seconds: int | None = Field(600, ge=1, description="Seconds between two saves.")
    every_steps: int | None = Field(None, ge=1, description="Steps between two saves, beside everySeconds.")
    keep_last: int = Field(2, ge=1, le=1000, description="How many checkpoints stay.")
    keep_best: int = Field(
        1, ge=0, le=100, description="How many of the best evaluations' weights stay; 0 saves the last weights instead."
    )
    resume: Resume = Field(Resume.AUTO, description="Auto goes on from the newest valid checkpoint.")
    grace_seconds: int = Field(120, ge=1, le=86_400, description="Time to save after SIGTERM.")


class OutputPolicy(Document):
    """Where the model and the run's folder go."""

    uri: VolumeUri | None = Field(None, description="Volume and path; without it the files go with the pod.")
    exact: bool = Field(False, description="Use the path as it is, without <namespace>/<job>/<uid5> below it.")
    merge_adapter: bool = Field(False, description="Merge LoRA weights into the saved model.")


class RunPolicy(Document):
    """What happens after a fault, a change, and the end."""

    suspend: bool = Field(False, description="Save, stop and give the hardware back until it is false again.")
    backoff_limit: int = Field(3, ge=0, le=1000, description="Restarts after faults of the program.")
    infra_backoff_limit: int = Field(10, ge=0, le=1000, description="Restarts after faults of the infrastructure.")
    ttl_seconds_after_finished: int | None = Field(None, ge=0, description="Children go this long after the end.")
    node_lost_seconds: int = Field(120, ge=1, le=86_400, description="A pod on a silent node counts as lost then.")
    on_spec_change: OnSpecChange = Field(OnSpecChange.RERUN, description="What a changed spec does after the end.")
