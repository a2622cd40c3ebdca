"""PID 1 of a training pod, and what `finetune run` starts: checks, starts the ranks, and says how it went.

Standard library and the words only, up to the preflight, which may read Parquet or the hub; never torch. The ranks
are started by the `launch` that `main` is given.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from finetune_api import names
from finetune_api.progress import ExitCode, Failure, FailureClass, Outcome, Output, Result
from finetune_api.run import RunConfig
from finetune_api.status import Status
from finetune_trainer import files, handover
from finetune_trainer.cgroup import memory_kills
from finetune_trainer.crossval import fold_config
from finetune_trainer.data.remote import ENV_DOWNLOADS
from finetune_trainer.errors import CodeError, Hang, Preempted, RunError, Unavailable
from finetune_trainer.gang import Gang, Launch
from finetune_trainer.hang import Watch, watched
from finetune_trainer.log import set_up_logging
from finetune_trainer.parent import end_with_parent
from finetune_trainer.placement import environments, place
from finetune_trainer.planning.advice import advised
from finetune_trainer.preflight import check_inputs, is_finished, load_run_config
from finetune_trainer.provenance import provenance
from finetune_trainer.pushing import check_places, deliver, missing
from finetune_trainer.record import check_same_data, check_unchanged, read_record
from finetune_trainer.report.snapshot import Snapshot
from finetune_trainer.report.status_file import ended, read_status, running
from finetune_trainer.settings import Settings, read_settings
from finetune_trainer.storage import is_full, storage_full, writing
from finetune_trainer.training.checkpoint import BEST, PREFIX, claim, owner_of
from finetune_trainer.verdict import PEER_LOST, RankEnd, Surroundings, verdict

log = logging.getLogger(__name__)
ORDERLY = (ExitCode.DONE, ExitCode.PREEMPTED)
LAST_WORD_SECONDS = 10.0
"""How long a run that stood still may take to write into its folder how it ended, and what is interrupted to end."""
PEER_LOST_DELAY = 3.0
"""Seconds that a pod which only lost a peer waits, so that the pod with the cause ends first."""


class StopRequest:
    """SIGTERM and SIGINT set a flag for the ranks; while only we are running they end us at once."""

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = False
        self._stuck: Callable[[Preempted], None] = lambda error: None  # noqa: ARG005
        self._seconds = LAST_WORD_SECONDS
        self._last: threading.Timer | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    @contextmanager
    def interrupting(self, stuck: Callable[[Preempted], None], seconds: float = LAST_WORD_SECONDS) -> Iterator[None]:
        """In this block a request raises Preempted, also one that came before.

        `stuck` is called in another thread if the block has not ended after so many seconds: a library may wait for
        its threads that download first.
        """
        self._interrupts, self._stuck, self._seconds = True, stuck, seconds
        try:
            if self.requested:
                self._interrupt()
            yield
        finally:
            self._interrupts = False
            if self._last is not None:
                self._last.cancel()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = True
        if self._interrupts:
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        self._interrupts = False
        error = Preempted("Preempted", "asked to stop before training began", "run it again to go on")
        self._last = threading.Timer(self._seconds, self._stuck, [error])
        self._last.daemon = True
        self._last.start()
        raise error


@dataclass
class Attempt:
    """What is known so far. `folder` is set once the run's folder is ours to write to."""

    settings: Settings
    scratch: Path
    folder: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked run: its configuration and the environment of each rank."""

    config: RunConfig
    ranks: list[dict[str, str]]


def main(arguments: Sequence[str], environment: Mapping[str, str], launch: Launch) -> int:
    """Carry out the run that the settings name, and return the exit code."""
    stop = StopRequest()
    if parent := environment.get(names.ENV_PARENT):
        end_with_parent(signal.SIGTERM, int(parent))
    set_up_logging()
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        os.environ.update(handover.cache_environment(environment, Path(scratch)))
        os.environ[ENV_DOWNLOADS] = str(Path(scratch, "downloads"))
        attempt = Attempt(read_settings(arguments, environment), Path(scratch))
        try:
            outcome = _carry_out(attempt, launch, stop)
        except RunError as error:
            outcome = _failed(error)
        except Exception as error:
            log.exception("the supervisor failed")
            outcome = _failed(_unexpected(error))
        return _conclude(attempt, outcome)


def _unexpected(error: Exception) -> RunError:
    if is_full(error):
        return storage_full(error, "the run's files")
    return CodeError(type(error).__name__, str(error), "its traceback is in the log")


def _carry_out(attempt: Attempt, launch: Launch, stop: StopRequest) -> Outcome:
    with stop.interrupting(lambda error: _give_up(attempt, error)):
        config = load_run_config(attempt.settings.run_config)
        with watched(config.hang_timeout_seconds or None, lambda hang: _give_up(attempt, hang)):
            prepared = _prepare(attempt, config)
    if prepared is None:
        return _delivered(attempt, config, _finished(attempt, config), stop)
    folds = config.evaluation.cross_validation
    for index in range(folds.folds if folds else 0):
        if (outcome := _run_fold(attempt, fold_config(config, index), launch, stop)) is not None:
            return outcome
    return _delivered(attempt, config, _outcome(config, _run_ranks(attempt, prepared, launch, stop)), stop)


def _delivered(attempt: Attempt, config: RunConfig, outcome: Outcome, stop: StopRequest) -> Outcome:
    """`outcome` with where the model was pushed to: by the first node, and only after a run that succeeded."""
    if attempt.settings.node_rank != 0 or outcome.outcome is not Result.SUCCEEDED:
        return outcome
    if missing(config):
        attempt.folder = Path(config.folder)
    return deliver(config, outcome, attempt.scratch, lambda: stop.requested, os.environ)


def _give_up(attempt: Attempt, error: Hang | Preempted) -> NoReturn:
    """End although the main thread stands still, wherever that is."""
    code = _conclude(attempt, _failed(error))
    files.remove(attempt.scratch)
    logging.shutdown()
    os._exit(code)


def _run_fold(attempt: Attempt, config: RunConfig, launch: Launch, stop: StopRequest) -> Outcome | None:
    """One run of a cross-validation, unless it is done already; the outcome of the whole run if it failed."""
    folder, record = Path(config.folder), _own_record(config)
    if record is not None:
        check_unchanged(config, record)
        check_same_data(handover.read_facts(attempt.scratch), record)
        if is_finished(folder):
            return None
    if attempt.folder is not None:
        _make_room(folder, Path(config.checkpoint_folder), record, config)
    path = attempt.scratch / f"fold-{folder.name}.json"
    path.write_text(config.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
    settings = replace(attempt.settings, run_config=path)
    failure = _run_ranks(attempt, Prepared(config, _ranks(attempt, config, settings, record)), launch, stop)
    if failure is not None:
        return _outcome(config, failure.model_copy(update={"message": f"fold {folder.name}: {failure.message}"}))
    if attempt.folder is not None:
        files.write_json(folder / files.OUTCOME, Outcome(outcome=Result.SUCCEEDED).to_dict())
        files.remove(Path(config.checkpoint_folder))
    return None


def _make_room(folder: Path, checkpoints: Path, record: Mapping[str, Any] | None, config: RunConfig) -> None:
    """A fold's folders, without what an earlier run left there."""
    if record is None:
        files.remove(folder)
        files.remove(checkpoints)
    folder.mkdir(parents=True, exist_ok=True)
    claim(checkpoints, owner_of(config.job))


def _prepare(attempt: Attempt, config: RunConfig) -> Prepared | None:
    """Check everything and make the folder ours; None if its run is finished."""
    folder = Path(config.folder)
    record = _own_record(config)
    if record is not None:
        check_unchanged(config, record)
        if is_finished(folder):
            return None
    _take_over(attempt, config, record)
    if attempt.folder is not None:
        check_places(config)
    facts = check_inputs(config, record, attempt.scratch / handover.ROWS)
    handover.write_facts(attempt.scratch, facts)
    if attempt.folder is not None and record is None:
        files.write_json(attempt.folder / files.PROFILE, facts.profile)
    return Prepared(config, _ranks(attempt, config, attempt.settings, record))


def _ranks(
    attempt: Attempt, config: RunConfig, settings: Settings, record: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """The environment of each rank on this node."""
    scratch = {handover.ENV_SCRATCH: str(attempt.scratch)}
    return [own | scratch for own in environments(place(config, settings, record), settings, config)]


def _own_record(config: RunConfig) -> dict[str, Any] | None:
    """run.json, unless an earlier run of the same object left it: then this one starts over."""
    record = read_record(Path(config.folder))
    if record is None or record["job"]["run"] < config.job.run:
        return None
    return record


def _take_over(attempt: Attempt, config: RunConfig, record: Mapping[str, Any] | None) -> None:
    """Make the folder ours: it exists, holds nothing of an earlier run, and says that we prepare."""
    if attempt.settings.node_rank != 0:
        return
    folder, checkpoints = Path(config.folder), Path(config.checkpoint_folder)
    claim(checkpoints, owner_of(config.job))
    try:
        with writing("the run's files", folder):
            folder.mkdir(parents=True, exist_ok=True)
            if record is None and (folder / files.RECORD).exists():
                _clear(folder, checkpoints)
            files.remove(folder / files.OUTCOME)
            now = time.time()
            status = running(Snapshot(started=now, time=now), config.job)
            files.write_json(folder / files.STATUS, status.to_dict(), durable=False)
    except OSError as error:
        message = f"cannot write to the run's folder {folder}: {error.strerror or error}"
        raise Unavailable("StoreUnavailable", message, "see that the volume is there and writable") from error
    attempt.folder = folder


def _clear(folder: Path, checkpoints: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    for name in files.RESULTS:
        files.remove(folder / name)
    for path in (*checkpoints.glob(f"{PREFIX}*"), *checkpoints.glob(f"{BEST}*")):
        files.remove(path)


def _finished(attempt: Attempt, config: RunConfig) -> Outcome:
    """How the run in the folder ended; a success, if only its push was missing."""
    folder = Path(config.folder)
    said = files.read_json(folder / files.OUTCOME)
    outcome = Outcome.model_validate(said) if said is not None else None
    if outcome is None or not outcome.is_finished:
        outcome = Outcome(outcome=Result.SUCCEEDED, output=_output(config))
        attempt.folder = folder if attempt.settings.node_rank == 0 else None
    pushes = outcome.outcome is Result.SUCCEEDED and missing(config)
    log.info("%s holds the finished run; %s", folder, "its model is to be pushed" if pushes else "nothing to do")
    return _with_provenance(outcome, read_record(folder) or {})


def _run_ranks(attempt: Attempt, prepared: Prepared, launch: Launch, stop: StopRequest) -> Failure | None:
    """Why the ranks did not come to their end; None if they did."""
    config, kills = prepared.config, memory_kills()
    ranks, alone = [int(own["RANK"]) for own in prepared.ranks], config.resources.nodes == 1
    watch = Watch(attempt.scratch, ranks, config.hang_timeout_seconds or None, alone)
    gang = Gang(prepared.ranks, launch)
    try:
        gang.wait(ORDERLY, lambda: stop.requested, config.checkpoint.grace_seconds, watch.hangs)
    finally:
        gang.kill()
    if watch.failure is not None:
        return watch.failure
    around = Surroundings(stop.requested, _has_checkpoint(config), memory_kills() - kills)
    ends = [
        RankEnd(rank, code, handover.read_failure(attempt.scratch, rank), rank in gang.ended_by_us)
        for rank, code in gang.ended.items()
    ]
    failure = verdict(ends, around)
    if failure is not None and failure.reason == PEER_LOST and config.resources.nodes > 1:
        time.sleep(PEER_LOST_DELAY)
    if failure is None or not alone:  # peers in other pods end within seconds, and this one has to end before them
        return failure
    return advised(failure, config, attempt.scratch, lambda: stop.requested)


def _outcome(config: RunConfig, failure: Failure | None) -> Outcome:
    if failure is None:
        return Outcome(outcome=Result.SUCCEEDED, output=_output(config))
    if failure.class_ is FailureClass.EVALUATION_GATE_FAILED:
        return Outcome(outcome=Result.FAILED, failure=failure, output=_output(config))
    result = Result.PREEMPTED if failure.class_ is FailureClass.PREEMPTED else Result.FAILED
    return Outcome(outcome=result, failure=failure)


def _has_checkpoint(config: RunConfig) -> bool:
    return any(Path(config.checkpoint_folder).glob(f"{PREFIX}*"))


def _output(config: RunConfig) -> Output:
    """Where the model lies that this run left."""
    model = Path(config.folder, files.MODEL)
    saved = {str(path.relative_to(model)): path for path in files.files_below(model)} if model.is_dir() else {}
    digest = f"sha256:{files.digest_of(saved)}" if saved else None
    return Output(uri=config.output_uri or str(Path(config.folder).resolve()), digest=digest)


def _failed(error: RunError) -> Outcome:
    result = Result.PREEMPTED if isinstance(error, Preempted) else Result.FAILED
    return Outcome(outcome=result, failure=error.failure())


def _conclude(attempt: Attempt, outcome: Outcome) -> int:
    """Say how it ended: in the log, in the run's folder if it is ours, and to the kubelet."""
    outcome = _with_provenance(_with_pod(outcome, attempt.settings), handover.told_facts(attempt.scratch))
    if outcome.failure is not None and outcome.failure.class_ is FailureClass.HANG:
        _end_even_if_a_volume_hangs(attempt.settings, outcome)
    if attempt.folder is not None:
        status = read_status(attempt.folder) or Status()
        outcome = outcome.model_copy(
            update={"metrics": status.metrics, "progress": status.progress, "checkpoint": status.checkpoint}
        )
        _write_end(attempt.folder, status, outcome)
    if attempt.settings.termination_log is not None:
        attempt.settings.termination_log.write_text(outcome.termination_message(), encoding="utf-8")
    if outcome.failure is None:
        return ExitCode.DONE
    failure = outcome.failure
    log.error("%s (%s): %s", failure.class_, failure.reason, failure.message)
    if failure.hint:
        log.error("hint: %s", failure.hint)
    return failure.exit_code if failure.exit_code is not None else ExitCode.CODE_ERROR


def _end_even_if_a_volume_hangs(settings: Settings, outcome: Outcome) -> None:
    """What made the run stand still may be the volume of its folder: the kubelet hears of it before, and we end."""
    if settings.termination_log is not None:
        settings.termination_log.write_text(outcome.termination_message(), encoding="utf-8")
    last = threading.Timer(LAST_WORD_SECONDS, os._exit, [ExitCode.CODE_ERROR])
    last.daemon = True
    last.start()


def _with_pod(outcome: Outcome, settings: Settings) -> Outcome:
    if outcome.failure is None:
        return outcome
    where = {"pod": settings.pod_name, "node": settings.node_name}
    return outcome.model_copy(update={"failure": outcome.failure.model_copy(update=where)})


def _with_provenance(outcome: Outcome, known: Mapping[str, Any]) -> Outcome:
    return outcome if outcome.provenance else outcome.model_copy(update={"provenance": provenance(known)})


def _write_end(folder: Path, status: Status, outcome: Outcome) -> None:
    """status.json first: outcome.json is what says that the run is over."""
    try:
        files.write_json(folder / files.STATUS, ended(status, outcome, time.time()).to_dict())
        files.write_json(folder / files.OUTCOME, outcome.to_dict())
    except OSError as error:
        log.error("cannot write the outcome to %s: %s", folder, error.strerror or error)
