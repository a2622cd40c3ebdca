"""spec.tracking: where a run's numbers are shown beside the files in its folder."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import Document, Rule, present
from finetune_api.fields import Reference, Word

SERVER_PATTERN = r"^https?://[^\s/@]+(/[^\s]*)?$"
"""No user or password in it: they belong into a Secret."""
MAX_TRACKERS = 8


class TrackerType(StrEnum):
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


class TrackerMode(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"


ServerUri = Annotated[str, StringConstraints(pattern=SERVER_PATTERN, max_length=1024)]


def _only(type_: TrackerType, *fields: str) -> Rule:
    """These fields have a meaning for one type only."""
    unset = " && ".join(f"!{present(field)}" for field in fields)
    return Rule(
        f"self.type == '{type_}' || ({unset})",
        lambda tracker: tracker.type is type_ or all(getattr(tracker, field) is None for field in fields),
        f"{' and '.join(fields)} need type {type_}" if len(fields) > 1 else f"{fields[0]} needs type {type_}",
    )


class Tracker(Document):
    """One place that shows the run."""

    type: TrackerType = Field(description="tensorboard writes into the run's folder; mlflow and wandb are servers.")
    uri: ServerUri | None = Field(None, description="mlflow: the tracking server, http:// or https://.")
    experiment: Word | None = Field(None, description="mlflow: name of the experiment; `finetune` if absent.")
    project: Word | None = Field(None, description="wandb: name of the project.")
    entity: Word | None = Field(None, description="wandb: user or team; the key's own if absent.")
    mode: TrackerMode | None = Field(
        None, description="wandb: online, or offline to sync the run's folder later; online if absent."
    )
    secret_ref: Reference | None = Field(
        None, description="Secret whose keys (WANDB_API_KEY, MLFLOW_TRACKING_TOKEN…) reach the trainer."
    )
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.type != 'mlflow' || {present('uri')}",
            lambda tracker: tracker.type is not TrackerType.MLFLOW or tracker.uri is not None,
            "type mlflow needs uri, the address of the tracking server",
        ),
        Rule(
            f"self.type != 'wandb' || {present('project')}",
            lambda tracker: tracker.type is not TrackerType.WANDB or tracker.project is not None,
            "type wandb needs project",
        ),
        _only(TrackerType.MLFLOW, "uri", "experiment"),
        _only(TrackerType.WANDB, "project", "entity", "mode"),
    )


Tracking = Annotated[list[Tracker], Field(max_length=MAX_TRACKERS)]
