"""`python -m finetune_trainer.fetch [RUN_CONFIG]`: downloads what a run reads, before accelerators are held for it.

Everything goes to the run's cache folder and is pinned there, so that the training pods, which look there first, ask no
server any more. No torch; exit codes and termination message are those of the trainer.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from finetune_api.evaluation import sources_of
from finetune_api.fields import uri_scheme
from finetune_api.model import Encoder, Model
from finetune_api.progress import ExitCode, Outcome, Provenance, Result
from finetune_api.run import RunConfig
from finetune_trainer import handover
from finetune_trainer.data import hub, remote
from finetune_trainer.data.prepare import places_of
from finetune_trainer.data.uri import is_hub
from finetune_trainer.errors import CodeError, ConfigError, Preempted, RunError
from finetune_trainer.fetching.downloads import Downloads
from finetune_trainer.log import set_up_logging
from finetune_trainer.model_folder import Needs, Part, find_folder
from finetune_trainer.preflight import MODEL_FIELD, find_model, load_run_config
from finetune_trainer.record import installed_versions
from finetune_trainer.settings import Settings, read_settings
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import TaskKind

log = logging.getLogger(__name__)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Fetch what the run of the settings reads; returns the exit code."""
    set_up_logging()
    settings = read_settings(arguments, environment)
    _stop_at_once(settings)
    with tempfile.TemporaryDirectory(prefix="finetune-fetch-") as scratch:
        os.environ.update(handover.cache_environment(environment, Path(scratch)))
        try:
            outcome = Outcome(outcome=Result.SUCCEEDED, provenance=fetch_all(load_run_config(settings.run_config)))
        except RunError as error:
            outcome = _failed(error)
        except Exception as error:
            log.exception("the download failed")
            outcome = _failed(CodeError(type(error).__name__, str(error), "its traceback is in the log"))
    return _conclude(settings, outcome)


def fetch_all(config: RunConfig) -> Provenance:
    """Every remote source of the run into its cache folder; local ones are left alone.

    Raises AuthError, ConfigError, DataError, StorageFull or Unavailable, naming the field.
    """
    downloads = Downloads.of(config)
    if downloads is None:
        message = "spec.cache.uri: without it there is no folder to fetch into"
        raise ConfigError("NoCache", message, "name a volume, or let the training pods download for themselves")
    revision = _fetch_model(config, downloads)
    for place, source in sources_of(config.dataset, config.evaluation):
        if is_hub(source.uri):
            hub.download_rows(source, f"{place}.uri", downloads)
        elif is_remote(source.uri):
            remote.fetch(source.uri, f"{place}.uri", downloads)
    log.info("everything is in %s", downloads.folder)
    return Provenance(trainer_version=installed_versions().get("finetune-operator"), model_revision=revision)


def is_remote(uri: str) -> bool:
    """Whether a URI leads out of the cluster's volumes and the image."""
    return is_hub(uri) or uri_scheme(uri) in remote.SCHEMES


def _fetch_model(config: RunConfig, downloads: Downloads) -> str | None:
    """The model, or those of the encoders that are remote: only the cache is mounted here. Returns their commits."""
    task = TASKS[config.task]
    if not config.own_program and (config.model.encoders is None) == bool(task.encoders):
        find_model(config, task)  # says what is wrong with that
    commits = []
    for place, model, parts in _models(config, task):
        if config.own_program:
            _fetch_unchecked(str(model.uri), model.revision, place, downloads)
        elif is_remote(str(model.uri)):
            needs = Needs(task.auto_classes, parts)
            commits.append(find_folder(str(model.uri), model.revision, place, needs, places_of(config)).revision)
    return ", ".join(commit for commit in commits if commit) or None


def _models(config: RunConfig, task: type[TaskKind]) -> Iterator[tuple[str, Model | Encoder, tuple[Part, ...]]]:
    """Each model with its field, and what the task needs to lie beside its weights."""
    if config.model.encoders is None:
        yield MODEL_FIELD, config.model, task.parts
        return
    for name, encoder in config.model.encoders.named().items():
        yield f"spec.model.encoders.{name}.uri", encoder, (task.encoders[name],) if task.encoders else ()


def _fetch_unchecked(uri: str, revision: str | None, place: str, downloads: Downloads) -> None:
    """For a program that we do not know: what it can load is its own affair."""
    if is_hub(uri):
        hub.download_model(uri, revision, place, lambda _: None, downloads, other_weights=hub.EVERYTHING)
    elif is_remote(uri):
        remote.fetch(uri, place, downloads)


def _failed(error: RunError) -> Outcome:
    result = Result.PREEMPTED if isinstance(error, Preempted) else Result.FAILED
    return Outcome(outcome=result, failure=error.failure())


def _stop_at_once(settings: Settings) -> None:
    """SIGTERM ends us within the call: whatever is half written is not taken for whole, and gone on with later."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        error = Preempted("Preempted", "asked to stop while downloading", "run it again: what is here stays")
        try:
            _conclude(settings, _failed(error))
            sys.stdout.flush()
        finally:
            os._exit(error.exit_code)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _conclude(settings: Settings, outcome: Outcome) -> int:
    """Say how it ended, in the log and to the kubelet; returns the exit code."""
    if outcome.failure is not None:
        where = {"pod": settings.pod_name, "node": settings.node_name}
        outcome = outcome.model_copy(update={"failure": outcome.failure.model_copy(update=where)})
    if settings.termination_log is not None:
        settings.termination_log.write_text(outcome.termination_message(), encoding="utf-8")
    failure = outcome.failure
    if failure is None:
        return ExitCode.DONE
    log.error("%s (%s): %s", failure.class_, failure.reason, failure.message)
    if failure.hint:
        log.error("hint: %s", failure.hint)
    return failure.exit_code if failure.exit_code is not None else ExitCode.CODE_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
