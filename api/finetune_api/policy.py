"""spec.checkpoint, output, cache, elastic and runPolicy: what is kept, and what happens after a fault and a change."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import Document, Rule, present
from finetune_api.fields import OutputUri, PushUri, Reference, VolumeUri


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

    uri: OutputUri | None = Field(
        None, description="Volume and path, or a place to push to; without it the files go with the pod."
    )
    push_to: PushUri | None = Field(None, description="s3://, gs://, az://, hf:// or oci:// that gets a copy.")
    secret_ref: Reference | None = Field(None, description="Secret with the credentials of that place.")
    exact: bool = Field(False, description="Use the path as it is, without <namespace>/<job>/<uid5> below it.")
    merge_adapter: bool = Field(False, description="Merge LoRA weights into the saved model.")


class CachePolicy(Document):
    """Where downloaded models and data sets are kept for all jobs that name the same place."""

    uri: VolumeUri | None = Field(
        None, description="Volume and path; hf://, s3:// and https:// are fetched into it once."
    )


class Elastic(Document):
    """How far a run may go on with fewer or more nodes than resources.nodes."""

    min_nodes: int | None = Field(None, ge=1, le=10_000, description="Fewest nodes to go on with; absent: not elastic.")
    max_nodes: int | None = Field(None, ge=1, le=10_000, description="Most nodes; resources.nodes if absent.")
    wait_seconds: int = Field(60, ge=1, le=86_400, description="Time to place all nodes before fewer will do.")
    grow: bool = Field(False, description="Restart by itself when more nodes can be had.")
    grow_interval_seconds: int = Field(600, ge=10, le=604_800, description="Time between two looks for more nodes.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!{present('minNodes')} || !{present('maxNodes')} || self.minNodes <= self.maxNodes",
            lambda elastic: (
                elastic.min_nodes is None or elastic.max_nodes is None or elastic.min_nodes <= elastic.max_nodes
            ),
            "minNodes is more than maxNodes",
        ),
    )


class Action(StrEnum):
    FAIL = "Fail"
    RESTART = "Restart"
    RESTART_IGNORE_LIMIT = "RestartIgnoreLimit"
    EXCLUDE_NODE = "ExcludeNode"


class FaultRule(Document):
    """What happens after a fault of a certain kind; each condition that is given must hold, by any of its values."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(description="Shown in the status.")
    on_exit_codes: Annotated[list[Annotated[int, Field(ge=1, le=255)]], Field(max_length=64)] = Field(
        [], description="Exit codes of the pod that failed first."
    )
    on_reasons: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=64)] = Field(
        [], description="Classes or reasons as in status.failure."
    )
    on_log_patterns: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=16)] = Field(
        [], description="Regular expressions (RE2), searched in message and log tail."
    )
    action: Action = Field(description="What to do; ExcludeNode restarts and avoids the node for the rest of the run.")


class RunPolicy(Document):
    """What happens after a fault, a change, and the end."""

    suspend: bool = Field(False, description="Save, stop and give the hardware back until it is false again.")
    backoff_limit: int = Field(3, ge=0, le=1000, description="Restarts after faults of the program.")
    infra_backoff_limit: int = Field(10, ge=0, le=1000, description="Restarts after faults of the infrastructure.")
    active_deadline_seconds: int | None = Field(None, ge=1, description="Most seconds of running, over all attempts.")
    ttl_seconds_after_finished: int | None = Field(None, ge=0, description="Children go this long after the end.")
    hang_timeout_seconds: int = Field(
        1800, ge=0, le=604_800, description="A run without a step for so long hangs; 0 never looks."
    )
    start_timeout_seconds: int = Field(
        1800, ge=1, le=604_800, description="Time for all pods to start together before they are given up."
    )
    node_lost_seconds: int = Field(120, ge=1, le=86_400, description="A pod on a silent node counts as lost then.")
    on_spec_change: OnSpecChange = Field(OnSpecChange.RERUN, description="What a changed spec does after the end.")
    rules: Annotated[list[FaultRule], Field(max_length=32)] = Field(
        [], description="What happens after certain faults; the first that fits counts, before the limits."
    )
