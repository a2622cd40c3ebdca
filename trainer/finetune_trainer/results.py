"""What a run leaves behind: one look at the test rows, the model, the rows that went wrong, and the card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_trainer import files, heartbeat
from finetune_trainer.analysis.document import analyse
from finetune_trainer.card import Known, model_card
from finetune_trainer.card_metadata import license_of
from finetune_trainer.crossval import write_fold
from finetune_trainer.environment import environment
from finetune_trainer.errors import EvaluationGateFailed
from finetune_trainer.gate import Judged, failure_of, judge
from finetune_trainer.methods import TrainingMethod
from finetune_trainer.methods.usage import usage_of as usage_lines
from finetune_trainer.methods.virtual_tokens import BASE
from finetune_trainer.pages.page import leave_page
from finetune_trainer.record import read_record
from finetune_trainer.report.snapshot import Activity
from finetune_trainer.storage import writing
from finetune_trainer.training.best import restore_best
from finetune_trainer.training.build import load
from finetune_trainer.training.evaluate import Evaluation, evaluate, prefixed
from finetune_trainer.training.forgetting import AFTER, compared, measure
from finetune_trainer.training.frozen_weights import widen
from finetune_trainer.training.loop import leave
from finetune_trainer.training.run import Run
from finetune_trainer.training.sharded import unite
from finetune_trainer.training.stop import StopRequested
from finetune_trainer.usage import energy_of, usage_of

log = logging.getLogger(__name__)
READABLE = 0o644
"""safetensors makes files that only their owner reads; whoever serves the model is often another user."""


def finish(run: Run, method: TrainingMethod) -> EvaluationGateFailed | None:
    """Evaluate once on the test rows and leave model, evaluation, wrong rows and card in the run's folder.

    Returns the end of a run that did not pass its gate, in the main process.
    """
    run.reporter.doing(Activity.EVALUATING)
    restore_best(run)
    try:
        remembered = measure(run, AFTER)
        evaluation = evaluate(run.model, run.task, run.test, run.world, run.stop, baseline=run.train.rows)
    except StopRequested:
        leave(run)
    energy = energy_of(run)
    unite(run.model, run.world)
    if evaluation is None:
        return None
    heartbeat.conclude()
    run.reporter.doing(Activity.SAVING)
    metrics = prefixed("test", evaluation.report.metrics)
    run.reporter.record(metrics)
    run.reporter.update(metrics={**run.reporter.now.metrics, **metrics})
    judged = judge(run.config.evaluation.gate, metrics)
    try:
        with run.stop.interrupting():
            if run.config.fold is not None:
                write_fold(run, evaluation, metrics)
                return None
            with writing("the model and its evaluation", Path(run.config.folder)):
                _save_model(run, method)
                heartbeat.beat()
                _write_results(run, evaluation, metrics, judged, remembered, usage_of(run, energy))
                heartbeat.beat()
                leave_page(Path(run.config.folder), evaluation.report.errors, run.test.rows)
    except StopRequested:
        leave(run)
    for name, value in metrics.items():
        log.info("%s %.4f", name, value)
    return failure_of(judged)


def _save_model(run: Run, method: TrainingMethod) -> None:
    """Write the model under another name first: a folder called `model` is a whole one."""
    folder = Path(run.config.folder)
    temporary = folder / f".{files.MODEL}.tmp"
    files.remove(temporary)
    module = run.accelerator.unwrap_model(run.replica, keep_fp32_wrapper=False)
    widen(module, run.narrowed, lambda: load(run.task, run.config.training.seed)[0])
    method.save(module, temporary, run.config.output.merge_adapter)
    for own in (temporary, temporary / BASE):
        if own.is_dir():
            run.task.save(own)
    for path in files.files_below(temporary):
        path.chmod(READABLE)
        files.sync(path)
    files.remove(folder / files.MODEL)
    temporary.rename(folder / files.MODEL)


def _write_results(
    run: Run,
    evaluation: Evaluation,
    metrics: dict[str, float],
    judged: Sequence[Judged],
    remembered: dict[str, float],
    usage: dict[str, Any],
) -> None:
    folder, report = Path(run.config.folder), evaluation.report
    gate = {"gate": [one.to_dict() for one in judged]} if judged else {}
    found = analyse(run.task, run.test.rows, evaluation.predictions, run.config.evaluation.slices)
    ended = _how_it_ended(run, remembered)
    document = {"metrics": metrics, "best": run.state.best, **ended, **gate, **report.details, "analysis": found}
    machine = environment(uses_gpu=run.world.device.type == "cuda")
    files.write_json(folder / files.EVALUATION, {**document, "usage": usage, "environment": machine})
    files.write_atomic(folder / files.ERRORS, "".join(files.json_line(error) for error in report.errors))
    said = zip(run.test.rows, evaluation.predictions, strict=True)
    lines = ({"source": row.source, "row": row.number, **run.task.present(prediction)} for row, prediction in said)
    files.write_atomic(folder / files.PREDICTIONS, "".join(files.json_line(line) for line in lines))
    record = (read_record(folder) or {}) | {"usage": usage}
    files.write_json(folder / files.RECORD, record)
    files.write_atomic(folder / files.CARD, model_card(run.config, _known(run, record, document)))


def _known(run: Run, record: dict[str, Any], document: dict[str, Any]) -> Known:
    """What the card says of this run."""
    return Known(
        record=record,
        metrics=document["metrics"],
        seconds=run.state.seconds,
        usage=usage_lines(run.config, run.task.auto_classes[0], run.task.usage),
        analysis=document["analysis"],
        license=license_of(run.task.source),
        adapter=any(Path(run.config.folder, files.MODEL).rglob("adapter_config.json")),
    )


def _how_it_ended(run: Run, remembered: dict[str, float]) -> dict[str, Any]:
    """Whether it was before the last step, and what was forgotten."""
    state = run.state
    found: dict[str, Any] = {}
    if state.stopped_early:
        found["stoppedEarly"] = {"step": state.step, "totalSteps": run.choices.total_steps}
    if state.before:
        found["forgetting"] = compared(state.before, remembered)
    return found
