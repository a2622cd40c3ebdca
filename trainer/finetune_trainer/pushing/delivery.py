"""After a run: its model goes to the places that the manifest names; `pushed.json` says what has arrived.

The file is made as soon as training is over. Who finds it does not train again, but pushes what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from finetune_api.run import RunConfig
from finetune_trainer import files
from finetune_trainer.data.stores import SCHEMES as STORES
from finetune_trainer.errors import ConfigError, Unavailable
from finetune_trainer.pushing.content import Content
from finetune_trainer.pushing.places import HUB, REGISTRY, Kind, Place, Pushed, places

log = logging.getLogger(__name__)
MODULES = {**dict.fromkeys(STORES, "object_store"), HUB: "hub", REGISTRY: "oci"}
ENV_PATIENCE = "FINETUNE_PUSH_PATIENCE_SECONDS"
PATIENCE = 300.0
"""Seconds of trying again while a place does not answer, before the attempt ends with Unavailable."""
FIRST_WAIT, LONGEST_WAIT = 2.0, 30.0


def check_places(config: RunConfig) -> None:
    """Raise ConfigError, AuthError or Unavailable for a place that would not take the model: before training."""
    for place in places(config):
        _kind(place).check(place)


def missing(config: RunConfig) -> list[Place]:
    """The places that have not got the model of the run in this folder."""
    done = read_pushed(Path(config.folder))
    return [place for place in places(config) if place.uri not in done]


def last_pushed(config: RunConfig) -> Pushed | None:
    """What the status tells: spec.output.pushTo if there is one, else spec.output.uri."""
    done = read_pushed(Path(config.folder))
    return next((done[place.uri] for place in reversed(places(config)) if place.uri in done), None)


def read_pushed(folder: Path) -> dict[str, Pushed]:
    """What was pushed, by the place's URI as the manifest has it."""
    document: Mapping[str, Any] = files.read_json(folder / files.PUSHED) or {}
    return {uri: Pushed(**pushed) for uri, pushed in document.get("places", {}).items()}


def mark_trained(folder: Path) -> None:
    """From now on this folder holds a trained model, whatever becomes of the push."""
    if not (folder / files.PUSHED).exists():
        _write(folder, {})


def push_missing(
    config: RunConfig,
    patience: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Push to every place that lacks the model, and note each that has it.

    `patience` is for how many seconds a place that does not answer is asked again. Raises RunError.
    """
    folder = Path(config.folder)
    content = Content.of(folder)
    if not content.is_whole:
        message = f"{folder} has no {files.MODEL}/ to push, or no {files.RECORD} about it"
        raise ConfigError("ModelMissing", message, "start over in another folder (finetune run --fresh)")
    for place in missing(config):
        log.info("pushing to %s", place.uri)
        started = clock()
        pushed = _patiently(partial(_kind(place).push, place, content), patience, sleep, clock)
        _write(folder, {**read_pushed(folder), place.uri: pushed})
        log.info("pushed to %s in %.1f s", pushed.uri, clock() - started)


def _patiently(
    push: Callable[[], Pushed], patience: float, sleep: Callable[[float], None], clock: Callable[[], float]
) -> Pushed:
    wait, until = FIRST_WAIT, clock() + patience
    while True:
        try:
            return push()
        except Unavailable as error:
            if clock() + wait > until:
                raise
            log.warning("%s; next try in %.0f s", error.message, wait)
            sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def _kind(place: Place) -> Kind:
    """Imported when it is needed: each brings a large library."""
    return cast(Kind, import_module(f"finetune_trainer.pushing.{MODULES[place.scheme]}"))


def _write(folder: Path, done: Mapping[str, Pushed]) -> None:
    files.write_json(folder / files.PUSHED, {"places": {uri: asdict(pushed) for uri, pushed in done.items()}})
