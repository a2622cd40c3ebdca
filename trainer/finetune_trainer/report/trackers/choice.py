"""From spec.tracking to adapters; and what of it can be known to be wrong before anything is computed."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from finetune_api.run import RunConfig
from finetune_api.tracking import Tracker, TrackerMode, TrackerType
from finetune_trainer.errors import ConfigError
from finetune_trainer.report.trackers.adapter import Adapter
from finetune_trainer.report.trackers.mlflow import MLflow
from finetune_trainer.report.trackers.tensorboard import TensorBoard
from finetune_trainer.report.trackers.wandb import WeightsAndBiases

WANDB_SERVER = "https://api.wandb.ai"
WANDB_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def check_tracking(config: RunConfig, environment: Mapping[str, str]) -> None:
    """Raise ConfigError for a tracker that could never be told anything."""
    for place, tracker in enumerate(config.tracking):
        field = f"spec.tracking[{place}]"
        if find_spec(tracker.type) is None:
            message = f"{field}.type: this image has no package {tracker.type}"
            raise ConfigError("TrackerMissing", message, f"use an image with it: pip install {tracker.type}")
        if tracker.type is TrackerType.WANDB and _mode(tracker, environment) == "online" and not _has_key(environment):
            hint = "name a Secret with WANDB_API_KEY in secretRef (here: wandb login), or set mode: offline"
            raise ConfigError("NoTrackerKey", f"{field}: there is no key for Weights & Biases", hint)


def adapters_of(config: RunConfig, environment: Mapping[str, str]) -> dict[str, Adapter]:
    """An adapter by the name that warnings give it; a tracker that is listed twice is told once.

    A run of a cross-validation's fold has none: it is the whole run that is told.
    """
    trackers = config.tracking if config.fold is None else []
    return dict(_adapter(tracker, environment) for tracker in trackers)


def _adapter(tracker: Tracker, environment: Mapping[str, str]) -> tuple[str, Adapter]:
    if tracker.type is TrackerType.MLFLOW:
        title = f"MLflow at {tracker.uri}" + (f" ({tracker.experiment})" if tracker.experiment else "")
        return title, MLflow(str(tracker.uri), tracker.experiment)
    if tracker.type is TrackerType.WANDB:
        project = "/".join(part for part in (tracker.entity, tracker.project) if part)
        mode = _mode(tracker, environment)
        return f"Weights & Biases ({project})", WeightsAndBiases(str(tracker.project), tracker.entity, mode)
    return "TensorBoard", TensorBoard()


def _mode(tracker: Tracker, environment: Mapping[str, str]) -> str:
    """W&B's own variable wins, as everywhere else."""
    return environment.get("WANDB_MODE") or (tracker.mode or TrackerMode.ONLINE).value


def _has_key(environment: Mapping[str, str]) -> bool:
    """In the environment, or where `wandb login` leaves it."""
    if any(environment.get(name) for name in WANDB_KEYS):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL", WANDB_SERVER)).hostname or ""
    try:
        return netrc.netrc(environment.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
