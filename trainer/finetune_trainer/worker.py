"""One rank: builds everything, trains, evaluates once, and leaves the model. The only entry that may import torch."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedDataParallelKwargs  # type: ignore[import-untyped]
from transformers.utils import logging as transformers_logging

from finetune_api.job import Precision, Resume
from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer import files, handover
from finetune_trainer.card import model_card
from finetune_trainer.checkpoint import CheckpointStore, owner_of
from finetune_trainer.data.prepare import Data, load_data
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError
from finetune_trainer.evaluate import Encoded, StopRequested, evaluate, prefixed
from finetune_trainer.faults import explain
from finetune_trainer.log import Tail, set_up_logging
from finetune_trainer.loop import Run, SavePlan, save_and_leave, train
from finetune_trainer.methods import METHODS, TrainingMethod
from finetune_trainer.optimizer import build_optimizer
from finetune_trainer.parent import end_with_parent
from finetune_trainer.precision import choose_precision
from finetune_trainer.preflight import load_run_config
from finetune_trainer.record import (
    Choices,
    Facts,
    fingerprint,
    installed_versions,
    kept_choices,
    read_record,
    record_of,
)
from finetune_trainer.report.console import Console
from finetune_trainer.report.kubeflow import ProgressReports
from finetune_trainer.report.prometheus import MetricsPage
from finetune_trainer.report.reporter import MetricsLog, Reporter
from finetune_trainer.report.snapshot import Activity, Sink
from finetune_trainer.report.status_file import StatusFile
from finetune_trainer.schedule import log_interval, total_steps, warmup_steps
from finetune_trainer.settings import Settings, read_settings
from finetune_trainer.state import State, read_state, seed_everything
from finetune_trainer.stop import StopFlag
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import Report, TaskKind
from finetune_trainer.world import World, open_world

log = logging.getLogger(__name__)
CPU_MICRO_BATCH_ROWS = 8
"""Small enough that rows of like length meet, large enough for the matrix products. A step of 32 short texts with a
small encoder on two threads took 0.90 s in one batch, 0.68 in 16s, 0.77 in 8s, 1.10 in 4s."""
READABLE = 0o644
"""safetensors makes files that only their owner reads; whoever serves the model is often another user."""


def main() -> int:
    """The rank that RANK says; returns the exit code. What went wrong is left for the supervisor in a file."""
    end_with_parent(signal.SIGKILL, int(os.environ[handover.ENV_SUPERVISOR]))
    faulthandler.enable()
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
    world = open_world(os.environ[handover.ENV_DEVICE] == handover.GPU)
    _check_same_inputs(facts, world)
    reporter = _reporter(config, settings, world)
    method = METHODS[config.method.type](config.method)
    run = _build(config, facts, method, world, reporter, threads)
    _resume(run)
    run.stop.install()
    train(run)
    _finish(run, method)
    reporter.close()
    world.close()


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
    sinks: list[Sink] = [Console(), StatusFile(folder, config.job)]
    if settings.metrics_port is not None:
        sinks.append(MetricsPage(settings.metrics_port))
    if settings.progress_server is not None:
        sinks.append(ProgressReports(settings.progress_server))
    return Reporter(sinks, MetricsLog(folder), time.time)


def _build(
    config: RunConfig, facts: Facts, method: TrainingMethod, world: World, reporter: Reporter, threads: int
) -> Run:
    """Everything that the loop works with, at step 0."""
    training = config.training
    data = load_data(config)
    task = TASKS[config.task].load(facts.folder, data.labels, training)
    encoded = {side: _encode(task, data, side) for side in Side}
    choices = _choose(config, facts, world, len(encoded[Side.TRAIN].rows), threads)

    seed_everything(training.seed)
    model, new = task.load_model(config.model.trust_remote_code)
    module = method.prepare(model, new)
    accelerator = _accelerator(choices, world)
    replica = accelerator.prepare_model(module)

    module.train()
    reporter.update(total_steps=choices.total_steps)
    return Run(
        config=config,
        choices=choices,
        world=world,
        task=task,
        accelerator=accelerator,
        model=module,
        replica=replica,
        optimizer=build_optimizer(module, training),
        train=encoded[Side.TRAIN],
        validation=encoded[Side.VALIDATION],
        test=encoded[Side.TEST],
        sampler=Sampler(len(encoded[Side.TRAIN].rows), training.train_batch_size, training.seed),
        store=_store(config, facts),
        reporter=reporter,
        stop=StopFlag(),
        state=State(),
        saves=SavePlan(config.checkpoint, 0, time.monotonic()),
    )


def _store(config: RunConfig, facts: Facts) -> CheckpointStore:
    folder = Path(config.checkpoint_folder)
    return CheckpointStore(folder, owner_of(config.job), fingerprint(config, facts), config.checkpoint.keep_last)


def _encode(task: TaskKind, data: Data, side: Side) -> Encoded:
    rows = data.sides.get(side, [])
    if not rows:
        return Encoded([], [])
    examples, cut = task.encode(rows)
    if cut:
        log.info("%d of %d %s texts are longer than the model or maxLength takes, and were cut", cut, len(rows), side)
    return Encoded(rows, examples)


def _choose(config: RunConfig, facts: Facts, world: World, rows: int, threads: int) -> Choices:
    """The first attempt's choices, or new ones, kept in run.json from now on. The main process decides."""
    choices = None
    if world.is_main:
        folder = Path(config.folder)
        choices = kept_choices(read_record(folder))
        if choices is None:
            choices = _new_choices(config, world, rows, threads)
            files.write_json(folder / files.RECORD, record_of(config, facts, choices, installed_versions()))
        else:
            _warn_if_inexact(choices, world, threads)
    received: Choices = world.broadcast(choices)
    return received


def _new_choices(config: RunConfig, world: World, rows: int, threads: int) -> Choices:
    training = config.training
    total = total_steps(training, rows)
    return Choices(
        precision=choose_precision(training.precision, world.device).value,
        processes=world.size,
        threads=threads,
        micro_batch_rows=_micro_batch_rows(training.train_batch_size, world),
        log_steps=log_interval(total),
        total_steps=total,
        warmup_steps=warmup_steps(training, total),
    )


def _micro_batch_rows(batch: int, world: World) -> int:
    """The same for any number of processes on the CPU, as long as each has that many rows of a step."""
    share = -(-batch // world.size)
    return min(CPU_MICRO_BATCH_ROWS, share) if world.device.type == "cpu" else share


def _warn_if_inexact(kept: Choices, world: World, threads: int) -> None:
    for name, value in {"processes": world.size, "threads": threads}.items():
        before = getattr(kept, name)
        if before != value:
            log.warning("%s: %d before, %d now; the result is as good, but not to the last bit", name, before, value)


def _accelerator(choices: Choices, world: World) -> Accelerator:
    # With unused parameters allowed DDP never regroups its buckets, so a resumed run sums in the same order.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(
        cpu=world.device.type == "cpu",
        mixed_precision="bf16" if choices.precision == Precision.BF16 else "no",
        kwargs_handlers=[ddp],
    )


def _resume(run: Run) -> None:
    """Go on from the newest whole checkpoint of this run, if there is one and the manifest allows it."""
    path = run.world.broadcast(_find_checkpoint(run) if run.world.is_main else None)
    if path is not None:
        run.state = read_state(path, run.model, run.optimizer)
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
    if run.reporter.metrics_log is not None:
        run.reporter.metrics_log.cut(run.state.log_bytes)


def _find_checkpoint(run: Run) -> Path | None:
    if run.config.checkpoint.resume is Resume.NEVER:
        run.store.clear()
        return None
    found = run.store.newest()
    for rejected in found.rejected:
        log.warning("checkpoint %s is of no use: %s", rejected.name, rejected.reason)
    return found.path


def _finish(run: Run, method: TrainingMethod) -> None:
    """Evaluate once on the test rows and leave model, evaluation, wrong rows and card in the run's folder."""
    run.reporter.doing(Activity.EVALUATING)
    try:
        report = evaluate(run.model, run.task, run.test, run.world, run.stop, baseline=run.train.rows)
    except StopRequested:
        save_and_leave(run)
    if report is None:
        return
    run.reporter.doing(Activity.SAVING)
    metrics = prefixed("test", report.metrics)
    run.reporter.record(metrics)
    run.reporter.update(metrics={**run.reporter.now.metrics, **metrics})
    _save_model(run, method)
    _write_results(run, report, metrics)
    for name in ("accuracy", "baseline_accuracy", "f1_macro"):
        if (value := metrics.get(f"test_{name}")) is not None:
            log.info("test_%s %.4f", name, value)


def _save_model(run: Run, method: TrainingMethod) -> None:
    """Write the model under another name first: a folder called `model` is a whole one."""
    folder = Path(run.config.folder)
    temporary = folder / f".{files.MODEL}.tmp"
    files.remove(temporary)
    module = run.accelerator.unwrap_model(run.replica, keep_fp32_wrapper=False)
    method.save(module, temporary, run.config.output.merge_adapter)
    run.task.save(temporary)
    for path in files.files_below(temporary):
        path.chmod(READABLE)
        files.sync(path)
    files.remove(folder / files.MODEL)
    temporary.rename(folder / files.MODEL)


def _write_results(run: Run, report: Report, metrics: dict[str, float]) -> None:
    folder = Path(run.config.folder)
    files.write_json(folder / files.EVALUATION, {"metrics": metrics, "best": run.state.best, **report.details})
    files.write_atomic(folder / files.ERRORS, "".join(files.json_line(error) for error in report.errors))
    record = read_record(folder) or {}
    files.write_atomic(folder / files.CARD, model_card(run.config, record, metrics, run.state.seconds))


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # Threads of the communication libraries may wait for peers that are gone.
    os._exit(code)
