"""Every task with every architecture of DESIGN's table: it learns, the ecosystem loads what it leaves and says the
same, it goes on exactly after a stop, and its gradient does not depend on how a step is cut.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.dataset import ProblemType
from finetune_api.job import Task
from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.metrics.names import names_of
from finetune_trainer.predict import main as predict
from support import cases_generation, cases_media, cases_text
from support.corpora.files import write_json_lines
from support.matrix import Case
from support.runs import ARun, WarmTrainer
from support.step_gradients import Tensors, step_gradients

pytestmark = pytest.mark.torch
CASES = (*cases_text.CASES, *cases_media.CASES, *cases_generation.CASES)
FIRST = {case.task: case for case in reversed(CASES)}
"""One case for each task."""
BATCH = 32
Made = Callable[[Case], ARun]
each_case = pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])


def test_every_task_has_a_case() -> None:
    assert {case.task for case in CASES} == {task.value for task in Task}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, trainer: WarmTrainer) -> Made:
    """The run of a case, done once, with a checkpoint at two thirds of its steps kept beside the last."""
    done: dict[str, ARun] = {}

    def make(case: Case) -> ARun:
        if case.id not in done:
            run = case.run(tmp_path_factory.mktemp("case"))
            run = run.with_("checkpoint", everySteps=middle(run))
            ended = trainer.run(run)
            assert ended.code == ExitCode.DONE, ended.log
            done[case.id] = run
        return done[case.id]

    return make


def middle(run: ARun) -> int:
    """A step at about two thirds of the run."""
    config = RunConfig.model_validate(run.config)
    training, rows = config.training, len(load_data(config).sides[Side.TRAIN])
    total = training.max_steps or training.num_train_epochs * math.ceil(rows / training.train_batch_size)
    return max(1, int(total * 2 / 3))


def rows_of_the_test(run: ARun) -> list[Row]:
    return load_data(RunConfig.model_validate(run.config)).sides[Side.TEST]


def approximately(value: Any, tolerance: float) -> Any:
    """`value`, with every number in it equal to whatever is near enough."""
    if isinstance(value, float):
        return pytest.approx(value, abs=tolerance, rel=tolerance)
    if isinstance(value, dict):
        return {name: approximately(item, tolerance) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(approximately(item, tolerance) for item in value)
    return value


def names_for(case: Case) -> set[str]:
    """Metrics that the gate knows before training."""
    return set(names_of(Task(case.task), ProblemType(case.dataset.get("problemType", "SingleLabel"))))


@each_case
def test_it_learns(case: Case, finished: Made) -> None:
    """The metric on rows that it never saw passes a bar that no guess passes."""
    metrics = finished(case).read("evaluation.json")["metrics"]
    value = metrics[f"test_{case.bar.metric}"]
    assert case.bar.holds(value), metrics
    assert {name.removeprefix("test_") for name in metrics} <= names_for(case)


CLASSES = frozenset({"confusion", "perClass", "calibration"})
ANALYSIS = {
    **dict.fromkeys((task for task in Task if task.value.endswith("-classification")), CLASSES),
    Task.TOKEN_CLASSIFICATION: {"entities"},
    Task.TEXT_REGRESSION: {"residuals"},
    Task.QUESTION_ANSWERING: {"spans"},
    Task.FILL_MASK: {"substitutions"},
    Task.AUTOMATIC_SPEECH_RECOGNITION: {"substitutions"},
    Task.IMAGE_TEXT_TO_TEXT: {"substitutions"},
}
"""What the analysis has beside slices, where something went wrong; of tasks that write, no more than those."""


@each_case
def test_what_went_wrong_is_analysed(case: Case, finished: Made) -> None:
    """With the parts that make sense for the task, slices of its metric, and for each wrong row what was said."""
    run = finished(case)
    analysis, errors = run.read("evaluation.json")["analysis"], run.lines("errors.jsonl")
    parts, more = ANALYSIS.get(Task(case.task), frozenset()), {"thresholds", "insertions", "deletions", "slices"}
    if case.dataset.get("problemType") == "MultiLabel":
        parts -= {"confusion"}
    assert analysis.keys() <= parts | more
    assert parts <= analysis.keys() or (not errors and parts == {"substitutions"})
    for line in analysis.get("slices", []):
        assert line.keys() == {"by", "slice", "rows", "metric", "value"}
        assert line["rows"] >= 5
    for error in errors:
        assert {"prediction", "source", "row"} < error.keys()
        assert any(isinstance(value, float | int) for name, value in error.items() if name not in ("row", "label"))


@each_case
def test_the_ecosystem_says_what_the_evaluation_said(case: Case, finished: Made) -> None:
    """The classes of DESIGN's table load the saved model, and agree on every test row."""
    run = finished(case)
    ours = [case.said(line) for line in run.lines("predictions.jsonl")]
    theirs = case.ecosystem(run.folder / "model", rows_of_the_test(run))
    assert ours == [approximately(value, case.tolerance) for value in theirs]


@each_case
def test_predict_says_the_same(case: Case, finished: Made, tmp_path: Path) -> None:
    """`finetune predict` over a file of rows."""
    run = finished(case)
    rows, uri = rows_of_the_test(run), run.config["dataset"]["train"][0]["uri"]
    if case.question is not None:
        asked = [case.question(run.folder / "model", row) for row in rows]
        rows = [Row(values, "questions.jsonl", number) for number, values in enumerate(asked, start=1)]
        uri = write_json_lines(tmp_path / "questions.jsonl", asked).as_uri()
    output = tmp_path / "predictions.jsonl"
    assert predict([str(run.folder), uri, "--output", str(output)]) == ExitCode.DONE
    answers = {line["row"]: line for line in map(json.loads, output.read_text().splitlines())}
    if case.asked is not None:
        said = [case.asked(answers[row.number]) for row in rows]
        theirs = case.ecosystem(run.folder / "model", rows)
        assert said == [approximately(value, case.tolerance) for value in theirs]
        return
    ours = [case.said(line) for line in run.lines("predictions.jsonl")]
    assert [case.said(answers[row.number]) for row in rows] == approximately(ours, case.tolerance)


@each_case
def test_it_resumes_exactly(case: Case, finished: Made, trainer: WarmTrainer, tmp_path: Path) -> None:
    """From the checkpoint in the middle it comes to the same bytes as without a stop."""
    run = finished(case)
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("outcome.json", "model", "step-*"))
    earliest = min(run.checkpoints.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    shutil.copytree(earliest, folder / "checkpoints" / earliest.name)
    again = ARun(tmp_path, {**run.config, "folder": str(folder), "checkpointFolder": str(folder / "checkpoints")})
    ended = trainer.run(again)
    assert ended.code == ExitCode.DONE, ended.log
    assert again.read("status.json")["checkpoint"]["resumedFromStep"] == int(earliest.name.removeprefix("step-"))
    assert again.weights() == run.weights()


@each_case
def test_the_gradient_does_not_depend_on_the_cut(case: Case, trainer: WarmTrainer, tmp_path: Path) -> None:
    """One process with one batch, with four micro-batches, and two processes: the same within float error."""
    run = case.run(tmp_path, trainBatchSize=BATCH, maxSteps=1)
    whole = step_gradients(trainer, run, BATCH)
    assert distance(whole, step_gradients(trainer, run, BATCH // 4)) < case.float_error
    assert distance(whole, step_gradients(trainer, run, BATCH // 4, processes=2)) < case.float_error


@pytest.mark.parametrize("case", [pytest.param(case, id=case.task) for case in FIRST.values()])
def test_every_row_is_counted_once_by_any_number_of_processes(case: Case, trainer: WarmTrainer, tmp_path: Path) -> None:
    """Three processes, whose last batches are uneven, come to the metrics that one comes to."""
    one = case.run(tmp_path / "one", maxSteps=1)
    three = ARun(tmp_path / "three", {**one.config, "folder": str(tmp_path / "three" / "run")}).with_processes(3)
    three = ARun(three.root, {**three.config, "checkpointFolder": str(three.root / "checkpoints")})
    for run in (one, three):
        ended = trainer.run(run)
        assert ended.code == ExitCode.DONE, ended.log
    metrics = one.read("evaluation.json")["metrics"]
    assert three.read("evaluation.json")["metrics"] == approximately(metrics, 1e-4)
    assert [line["row"] for line in three.lines("predictions.jsonl")] == [row.number for row in rows_of_the_test(one)]


def distance(one: Tensors, other: Tensors) -> float:
    """The largest difference between two tensors, as a share of the largest value of all."""
    assert one.keys() == other.keys()
    largest = max(float(item.abs().max()) for item in one.values())
    return max(float((item - other[name]).abs().max()) for name, item in one.items()) / largest


def test_the_architectures_are_those_that_transformers_loads() -> None:
    """`make generate` was run after a task or transformers changed."""
    from finetune_trainer.architectures import known
    from finetune_trainer.model_folder import architectures

    assert architectures() == known()
