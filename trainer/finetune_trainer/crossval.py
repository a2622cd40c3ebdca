"""What the folds of a cross-validation say together: mean and spread of each metric, and rows with doubtful labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from finetune_api.run import Fold, RunConfig
from finetune_trainer import files
from finetune_trainer.data.rows import Row, Rows
from finetune_trainer.tasks.base import MOST_ERRORS, wrong_row

if TYPE_CHECKING:
    import numpy

    from finetune_trainer.training.evaluate import Evaluation
    from finetune_trainer.training.run import Run

log = logging.getLogger(__name__)
SCORES = "scores.npz"
SHOWN = 5
"""Metrics whose mean and spread stand in the status, the task's own first."""


def fold_config(config: RunConfig, index: int) -> RunConfig:
    """The run that tests on part `index`, counted from 0, in a folder of its own below the run's."""
    assert config.evaluation.cross_validation is not None
    number = f"{index + 1}"
    return config.model_copy(
        update={
            "fold": Fold(index=index, of=config.evaluation.cross_validation.folds, folder=config.folder),
            "folder": str(Path(config.folder, files.FOLDS, number)),
            "checkpoint_folder": str(Path(config.checkpoint_folder, f"{files.FOLDS}-{number}")),
            "checkpoint_uri": config.checkpoint_uri and f"{config.checkpoint_uri}/{files.FOLDS}-{number}",
        }
    )


def part_of(config: RunConfig) -> dict[str, int]:
    """Which part of the whole run this is, and how many there are: the folds, then the run that makes the model."""
    folds = config.evaluation.cross_validation
    if folds is None:
        return {}
    return {"part": folds.folds if config.fold is None else config.fold.index, "parts": folds.folds + 1}


def write_fold(run: Run, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
    """What a fold leaves: its metrics, and what it says of the rows that it did not learn from."""
    import numpy

    folder = Path(run.config.folder)
    files.write_json(folder / files.EVALUATION, {"metrics": metrics, "best": run.state.best})
    scored = run.task.scores(run.test.rows, evaluation.predictions)
    if scored is not None:
        numpy.savez(folder / SCORES, places=Rows.of(run.test.rows).places, truth=scored[0], scores=scored[1])


def conclude(run: Run) -> dict[str, float]:
    """After the last fold: cross_validation.json, label_issues.jsonl, and the metrics for the status."""
    folder = Path(run.config.folder)
    if not run.world.is_main:
        return {}
    summary = summarize(folder)
    files.write_json(folder / files.CROSS_VALIDATION, summary)
    goal = run.task.goal.metric
    if goal in summary["mean"]:
        log.info("cross-validation: %s %.4f ± %.4f", goal, summary["mean"][goal], summary["std"][goal])
    scored = list(_scored(folder))
    if scored:
        _tell_doubtful(run, *(_joined(arrays) for arrays in zip(*scored, strict=True)))
    return status_metrics(summary, goal)


def summarize(folder: Path) -> dict[str, Any]:
    """What cross_validation.json says, from the folds' evaluations in a run's folder.

    The spread is the sample standard deviation over folds.
    """
    paths = sorted(Path(folder, files.FOLDS).glob(f"*/{files.EVALUATION}"), key=lambda path: int(path.parent.name))
    tested = [_tested(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    metrics = {name: [fold[name] for fold in tested] for name in tested[0] if all(name in fold for fold in tested)}
    return {
        "folds": [{"fold": number, "metrics": fold} for number, fold in enumerate(tested, start=1)],
        "mean": {name: fmean(values) for name, values in metrics.items()},
        "std": {name: stdev(values) for name, values in metrics.items()},
    }


def _tested(evaluation: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix("test_"): value for name, value in evaluation["metrics"].items()}


def status_metrics(summary: Mapping[str, Any], goal: str) -> dict[str, float]:
    """The metrics of a status: `cv_<name>_mean` and `cv_<name>_std` of the task's own metric and a few more."""
    names = [name for name in summary["mean"] if not name.startswith("baseline_")]
    chosen = sorted(names, key=lambda name: name != goal)[:SHOWN]
    return {f"cv_{name}_{what}": summary[what][name] for name in chosen for what in ("mean", "std")}


def _scored(folder: Path) -> Iterator[tuple[numpy.ndarray, ...]]:
    """Of each fold: its rows' places in the table, their labels' numbers, and what it says of them."""
    import numpy

    for path in sorted(Path(folder, files.FOLDS).glob(f"*/{SCORES}")):
        with numpy.load(path) as arrays:
            yield arrays["places"], arrays["truth"], arrays["scores"]


def _joined(arrays: Sequence[numpy.ndarray]) -> numpy.ndarray:
    import numpy

    return numpy.concatenate(arrays)


def _tell_doubtful(run: Run, places: numpy.ndarray, given: numpy.ndarray, scores: numpy.ndarray) -> None:
    folder = Path(run.config.folder)
    rows = Rows(Rows.of(run.train.rows).table, places)
    found = doubtful_rows(rows, given, scores, run.task.labels)
    files.write_atomic(folder / files.DOUBTFUL, "".join(map(files.json_line, found[:MOST_ERRORS])))
    if not found:
        return
    warned = {
        "code": "LikelyLabelErrors",
        "message": f"{len(found)} of {len(rows)} training rows have probably another label than the one given",
        "hint": f"look at {files.DOUBTFUL}, the most doubtful first, and correct the rows",
    }
    log.warning("%s; %s", warned["message"], warned["hint"])
    profile = files.read_json(folder / files.PROFILE) or {"sides": {}, "warnings": []}
    others = [item for item in profile["warnings"] if item["code"] != warned["code"]]
    files.write_json(folder / files.PROFILE, {**profile, "warnings": [*others, warned]})


def doubtful_rows(
    rows: Sequence[Row], given: numpy.ndarray, scores: numpy.ndarray, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows whose label is probably wrong, the most doubtful first, by confident learning (Northcutt et al. 2021).

    `given` has the number of each row's label, `scores` what a model that did not learn from the row says of it,
    (rows, labels).
    """
    from cleanlab.filter import find_label_issues  # type: ignore[import-untyped]

    shares = scores / scores.sum(axis=1, keepdims=True)
    places = find_label_issues(given, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [
        wrong_row(
            rows[int(place)],
            given=labels[given[place]],
            suggested=labels[int(shares[place].argmax())],
            confidence=round(float(shares[place, given[place]]), 4),
        )
        for place in places
    ]
