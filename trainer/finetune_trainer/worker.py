"""What a rank does: builds everything, trains, evaluates once, and leaves the model. `rank` starts it."""

from __future__ import annotations

import logging
import os
import time
from contextlib import closing
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from finetune_api.policy import Resume
from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer import crossval, handover, heartbeat
from finetune_trainer.energy import open_meter
from finetune_trainer.errors import ConfigError, EvaluationGateFailed
from finetune_trainer.faults import explain
from finetune_trainer.files import remove
from finetune_trainer.log import Tail, set_up_logging
from finetune_trainer.methods import METHODS
from finetune_trainer.preflight import load_run_config
from finetune_trainer.record import Facts
from finetune_trainer.report.console import Console
from finetune_trainer.report.kubeflow import ProgressReports
from finetune_trainer.report.prometheus import MetricsPage
from finetune_trainer.report.reporter import MetricsLog, Reporter
from finetune_trainer.report.snapshot import Ending, Sink
from finetune_trainer.report.status_file import StatusFile
from finetune_trainer.results import finish
from finetune_trainer.settings import Settings, read_settings
from finetune_trainer.tracking import ending_of, start_trackers
from finetune_trainer.training.build import build_run
from finetune_trainer.training.checkpoint import step_of
from finetune_trainer.training.loop import train
from finetune_trainer.training.run import Run
from finetune_trainer.training.saving import saving
from finetune_trainer.training.state import read_state
from finetune_trainer.training.world import World, open_world

log = logging.getLogger(__name__)


def main() -> int:
    """The rank that RANK says; returns the exit code. What went wrong is left for the supervisor in a file."""
    rank = int(os.environ["RANK"])
    tail = set_up_logging(rank)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    settings = read_settings([], os.environ)
    try:
        work(load_run_config(settings.run_config), settings, Path(os.environ[handover.ENV_SCRATCH]))
    except BaseException as error:
        return _explain(error, rank, tail)
    return ExitCode.DONE


def _explain(error: BaseException, rank: int, tail: Tail) -> int:
    known = explain(error)
    if known is not error:
        log.error("rank %d failed", rank, exc_info=error)
    failure = known.failure(rank).model_copy(update={"log_tail": tail.text()})
    handover.write_failure(Path(os.environ[handover.ENV_SCRATCH]), rank, failure)
    return known.exit_code


def work(config: RunConfig, settings: Settings, scratch: Path) -> None:
    """The whole life of a rank."""
    facts = handover.read_facts(scratch)
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    world = open_world(os.environ[handover.ENV_DEVICE] == handover.GPU, config.hang_timeout_seconds)
    _check_same_inputs(facts, world)
    reporter = _reporter(config, settings, world)
    try:
        not_passed = _train_and_finish(config, facts, world, reporter, threads)
    except BaseException as error:
        if (ending := ending_of(error)) is not None:
            reporter.close(ending)
        raise
    reporter.close(Ending.DONE if not_passed is None else Ending.GATE_FAILED)
    world.close()
    if not_passed is not None:
        raise not_passed


def _train_and_finish(
    config: RunConfig, facts: Facts, world: World, reporter: Reporter, threads: int
) -> EvaluationGateFailed | None:
    """Returns the end of a run that is done and did not pass its gate."""
    reporter.update(**crossval.part_of(config))
    method = METHODS[config.method.type](config.method)
    run = build_run(config, facts, method, world, reporter, threads)
    _measure_energy(run)
    _resume(run)
    heartbeat.beat(run.state.step)
    if config.evaluation.cross_validation is not None and config.fold is None:
        reporter.update(constants=crossval.conclude(run))
    run.stop.install()
    with closing(run.feed), saving(run):
        train(run)
    return finish(run, method)


def _check_same_inputs(facts: Facts, world: World) -> None:
    """All nodes must see the same rows and the same model, or they would train on different things."""
    own = (facts.data["sha256"], facts.model["sha256"])
    if world.broadcast(own) != own:
        message = "this node sees other data, or another model, than the first one"
        raise ConfigError("InputsDiffer", message, "use sources that are the same on all nodes")


def _reporter(config: RunConfig, settings: Settings, world: World) -> Reporter:
    if not world.is_main:
        return Reporter([], None, time.time)
    folder = Path(config.folder)
    sinks: list[Sink] = [Console(), StatusFile(Path(config.fold.folder) if config.fold else folder, config.job)]
    if settings.metrics_port is not None:
        sinks.append(MetricsPage(settings.metrics_port))
    if settings.progress_server is not None:
        sinks.append(ProgressReports(settings.progress_server))
    return Reporter(sinks, MetricsLog(folder), time.time)


def _resume(run: Run) -> None:
    """Go on from the newest whole checkpoint of this run, if there is one and the manifest allows it."""
    path = run.world.broadcast(_find_checkpoint(run) if run.world.is_main else None)
    if path is not None:
        run.state = read_state(path, run.model, run.optimizer, run.average.tensors)
        run.scaler.load(run.state.scaler)
        run.saves.saved(run.state.step, time.monotonic())
        run.first_step, run.earlier_seconds = run.state.step, run.state.seconds
        run.reporter.update(
            step=run.state.step,
            epoch=run.sampler.epoch(run.state.step),
            samples=run.state.samples,
            tokens=run.state.tokens,
            resumed_from_step=run.state.step,
            checkpoint_step=run.state.step,
            metrics=run.state.metrics,
        )
        log.info("resumed from step %d of %d", run.state.step, run.choices.total_steps)
        run.earlier_energy = run.state.energy
    if run.reporter.metrics_log is not None:
        run.reporter.metrics_log.cut(run.state.log_bytes)
    start_trackers(run, path is not None, os.environ)


def _measure_energy(run: Run) -> None:
    device, processes = run.world.device, int(os.environ["LOCAL_WORLD_SIZE"])
    run.meter = open_meter(device.index if device.type == "cuda" else None, run.world.rank % processes == 0)
    run.reporter.sinks.append(run.meter)


def _find_checkpoint(run: Run) -> Path | None:
    if run.config.checkpoint.resume is Resume.NEVER:
        run.store.clear()
        return None
    found = run.store.newest()
    for rejected in found.rejected:
        log.warning("checkpoint %s is of no use: %s", rejected.name, rejected.reason)
        # It would count among the newest, and those that are saved on the way there would go instead of it.
        remove(run.store.folder / rejected.name)
    if found.path is None and found.rejected:
        log.warning("none of %d checkpoints can be resumed from; the run starts over", len(found.rejected))
    run.store.forget_after(-1 if found.path is None else step_of(found.path))
    return found.path
