"""Whole runs of the real supervisor and its ranks: they learn, finish, and say what went wrong.

Runs that are stopped or killed, and go on, are in test_exact_resume.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from finetune_api.progress import ExitCode, Outcome, Result
from support.killing import in_folder, next_attempt, resumed_step
from support.models import sentences, write_rows
from support.runs import ARun, Attempt, WarmTrainer

pytestmark = pytest.mark.torch
STOPPED_AT = 20
"""Step at which runs are stopped or killed, in the second of eight epochs."""
MASTER_PORT = "29617"


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Name to time of change and size of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def difference(one: ARun, other: ARun) -> float:
    """The largest difference between two weights of the models that two runs left."""
    weights, others = load(one.weights()), load(other.weights())
    return max(float(abs(weights[name] - others[name]).max()) for name in weights)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, trainer: WarmTrainer) -> Callable[[ARun], ARun]:
    """The same run in a folder of its own, done without disturbance; made once for each number of processes."""
    done: dict[int, ARun] = {}

    def make(run: ARun) -> ARun:
        processes = run.config["resources"]["processesPerNode"]
        if processes not in done:
            done[processes] = in_folder(run, tmp_path_factory.mktemp("undisturbed"))
            ended = trainer.run(done[processes])
            assert ended.code == ExitCode.DONE, ended.log
        return done[processes]

    return make


def test_a_run_learns_and_leaves_everything(small_run: ARun, undisturbed: Callable[[ARun], ARun]) -> None:
    """It ends with 0, far above the baseline, with every file that DESIGN names, and says the same in all of them."""
    run = undisturbed(small_run)
    outcome = Outcome.model_validate(run.read("outcome.json"))
    status = run.read("status.json")
    metrics = outcome.metrics
    assert metrics["test_accuracy"] >= 0.85 > metrics["test_baseline_accuracy"] + 0.3
    assert {"test_f1_macro", "test_loss", "test_roc_auc", "validation_accuracy"} <= set(metrics)
    assert (outcome.outcome, status["phase"], status["metrics"]) == (Result.SUCCEEDED, "Succeeded", metrics)
    assert status["progress"]["step"] == status["progress"]["totalSteps"] == outcome.checkpoint.step  # type: ignore[union-attr]
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "README.md",
        "checkpoints",
        "errors.jsonl",
        "evaluation.json",
        "metrics.jsonl",
        "model",
        "outcome.json",
        "predictions.jsonl",
        "profile.json",
        "report.html",
        "run.json",
        "status.json",
    ]
    assert outcome == Outcome.model_validate_json((run.root / "termination").read_text())


def test_the_evaluation_adds_up(small_run: ARun, undisturbed: Callable[[ARun], ARun]) -> None:
    """Confusion matrix, table by class, wrong rows and accuracy tell the same story about every test row."""
    run = undisturbed(small_run)
    evaluation, errors, record = run.read("evaluation.json"), run.lines("errors.jsonl"), run.read("run.json")
    analysis, labels = evaluation["analysis"], evaluation["labels"]
    confusion, classes = analysis["confusion"]["counts"], {line["label"]: line for line in analysis["perClass"]}
    tested = record["data"]["rows"]["test"]
    right = sum(confusion[number][number] for number in range(len(labels)))
    assert labels == record["data"]["labels"] == ["delivery", "invoice", "praise"]
    assert sum(map(sum, confusion)) == tested == right + len(errors)
    assert evaluation["metrics"]["test_accuracy"] == pytest.approx(right / tested)
    assert [classes[label]["support"] for label in labels] == [sum(row) for row in confusion]
    assert analysis["calibration"]["ece"] >= 0
    slices = [(line["by"], line["rows"], line["value"]) for line in analysis["slices"]]
    by_label, by_column = (sorted(line[1:] for line in slices if line[0] == by) for by in ("label", "column label"))
    assert {by for by, _, _ in slices} == {"length", "label", "column label"}
    assert by_label == by_column
    assert all(error["label"] != error["prediction"] for error in errors)


def test_the_log_of_metrics_covers_the_run(small_run: ARun, undisturbed: Callable[[ARun], ARun]) -> None:
    """Every step of a short run, an evaluation an epoch, and the test once, last."""
    run = undisturbed(small_run)
    lines = run.lines("metrics.jsonl")
    total = run.read("run.json")["choices"]["total_steps"]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, total + 1))
    assert [line["epoch"] for line in lines if "validation_loss" in line] == [float(epoch) for epoch in range(1, 9)]
    assert [number for number, line in enumerate(lines) if "test_loss" in line] == [len(lines) - 1]


def test_a_finished_folder_is_left_alone(
    trainer: WarmTrainer, small_run: ARun, undisturbed: Callable[[ARun], ARun]
) -> None:
    """Running it again says that it is finished, with 0 and the same outcome, and touches nothing."""
    run = undisturbed(small_run)
    before = everything_in(run.folder)
    ended = trainer.run(next_attempt(run))
    assert ended.code == ExitCode.DONE
    assert "holds the finished run; nothing to do" in ended.log
    assert ended.outcome == Outcome.model_validate(run.read("outcome.json"))
    assert everything_in(run.folder) == before


def test_a_changed_configuration_is_refused(
    trainer: WarmTrainer, small_run: ARun, undisturbed: Callable[[ARun], ARun]
) -> None:
    """78, with the fields that differ; where it runs and how often it saves may change."""
    run = undisturbed(small_run)
    before = everything_in(run.folder)
    changed = run.with_("training", learningRate=1e-4, seed=8).with_processes(2).with_("checkpoint", everySteps=5)
    ended = trainer.run(changed)
    assert ended.code == ExitCode.CONFIG_ERROR
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.message.splitlines()[1:] == [
        "spec.training.learningRate: 0.003 in the folder, 0.0001 now",
        "spec.training.seed: 7 in the folder, 8 now",
    ]
    assert everything_in(run.folder) == before


def test_the_next_run_of_a_job_starts_over(trainer: WarmTrainer, small_run: ARun) -> None:
    """A higher run number in the same folder removes what the run before left, whatever its configuration."""
    first = small_run.with_("training", maxSteps=3)
    assert trainer.run(first).code == ExitCode.DONE
    second = first.with_("training", maxSteps=2).with_("job", run=2)
    assert trainer.run(second).code == ExitCode.DONE
    assert second.read("run.json")["choices"]["total_steps"] == 2
    assert [path.name for path in second.checkpoints.glob("step-*")] == ["step-2"]


def stopped_late(trainer: WarmTrainer, run: ARun) -> ARun:
    """The run's next attempt, after it saved every eight steps and was killed."""
    attempt = trainer.start(run.with_("checkpoint", everySteps=8))
    attempt.until_step(3 * STOPPED_AT)
    attempt.vanish()
    return next_attempt(run)


def test_resume_never_starts_from_the_first_step(
    trainer: WarmTrainer, small_run: ARun, undisturbed: Callable[[ARun], ARun]
) -> None:
    run = stopped_late(trainer, small_run).with_("checkpoint", resume="Never")
    assert trainer.run(run).code == ExitCode.DONE
    assert "resumedFromStep" not in run.read("status.json")["checkpoint"]
    assert run.weights() == undisturbed(run).weights()


def test_a_loss_that_is_not_finite_ends_the_run(trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    """For good, with what to change: the next attempt would come to the same."""
    data = write_rows(tmp_path / "rows.csv", [(text, f"{number}e30") for number, (text, _) in enumerate(sentences(60))])
    run = small_run.with_("dataset", train=[{"uri": data.as_uri()}])
    ended = trainer.run(ARun(run.root, {**run.config, "task": "text-regression"}))
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.CONFIG_ERROR, "Diverged")
    assert "learningRate" in (ended.outcome.failure.hint or "")


def test_data_that_changed_is_not_trained_on(trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    write_rows(data, sentences(240))
    run = stopped_late(trainer, small_run.with_("dataset", train=[{"uri": data.as_uri()}]))
    write_rows(data, sentences(241))
    ended = trainer.run(run)
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.CONFIG_ERROR, "InputChanged")


@pytest.mark.parametrize("processes", [pytest.param(2, id="2 processes"), pytest.param(3, id="3 processes")])
def test_the_number_of_processes_does_not_show(
    processes: int, trainer: WarmTrainer, small_run: ARun, tmp_path: Path
) -> None:
    """With dropout, too: every micro-batch draws its own random numbers, whoever computes it.

    As long as there are rows for whole micro-batches, here 24 for three processes.
    """
    run = small_run.with_("training", learningRate=5e-4, trainBatchSize=24)
    many = in_folder(run, tmp_path / "many").with_processes(processes)
    for each in (run, many):
        assert trainer.run(each).code == ExitCode.DONE
    assert difference(run, many) < 1e-5


def test_a_killed_rank_takes_its_peers_with_it(trainer: WarmTrainer, small_run: ARun) -> None:
    """69, because nothing of ours was wrong: the next attempt goes on from the last save."""
    run = small_run.with_processes(2).with_("checkpoint", everySteps=8)
    attempt = trainer.start(run)
    attempt.until_step(STOPPED_AT)
    os.kill(attempt.ranks()[1], signal.SIGKILL)
    ended = attempt.end()
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.UNAVAILABLE, "RankKilled")
    assert ended.outcome.failure.rank == 1
    run = next_attempt(run)
    assert trainer.run(run).code == ExitCode.DONE
    assert resumed_step(run) >= 8


def test_ranks_do_not_outlive_their_supervisor(trainer: WarmTrainer, small_run: ARun) -> None:
    """They would go on writing where the next attempt writes."""
    attempt = trainer.start(small_run.with_processes(2))
    attempt.until_step(STOPPED_AT)
    ranks = attempt.ranks()
    attempt.send(signal.SIGKILL)
    attempt.process.join()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def two_nodes(trainer: WarmTrainer, run: ARun) -> list[Attempt]:
    """The run as two pods on this machine, with one process each."""
    attempts = []
    for node in range(2):
        own = ARun(run.root / f"node-{node}", {**run.config, "resources": {"nodes": 2, "processesPerNode": 1}})
        environment = {"JOB_COMPLETION_INDEX": str(node), "MASTER_ADDR": "localhost", "MASTER_PORT": MASTER_PORT}
        attempts.append(trainer.start(own, **environment))
    return attempts


def test_two_nodes_train_the_same_model(
    trainer: WarmTrainer, small_run: ARun, undisturbed: Callable[[ARun], ARun]
) -> None:
    ends = [attempt.end() for attempt in two_nodes(trainer, small_run)]
    assert [end.code for end in ends] == [ExitCode.DONE] * 2, ends[0].log + ends[1].log
    assert difference(small_run, undisturbed(small_run)) < 1e-4


def test_a_node_that_vanishes_is_a_lost_peer(trainer: WarmTrainer, small_run: ARun) -> None:
    """69 on the node that is left: it is no fault of the program, and its budget is not used."""
    first, second = two_nodes(trainer, small_run)
    first.until_step(STOPPED_AT)
    second.vanish()
    ended = first.end()
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.UNAVAILABLE, "PeerLost"), ended.log


def test_a_superseded_attempt_publishes_nothing_more(trainer: WarmTrainer, small_run: ARun) -> None:
    """A pod that was taken for lost, and replaced, finds the fence at its next save and ends with 75."""
    run = small_run.with_("checkpoint", everySteps=8)
    attempt = trainer.start(run)
    attempt.until_step(STOPPED_AT)
    before = sorted(path.name for path in run.checkpoints.glob("step-*"))
    (run.checkpoints / "FENCE").write_text(json.dumps({"uid": "0a1b2c3d", "run": 1, "attempt": 2}))
    ended = attempt.end()
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.PREEMPTED, "Superseded")
    after = sorted(path.name for path in run.checkpoints.glob("step-*"))
    assert len(set(after) - set(before)) <= 1
    assert not (run.folder / "model").exists()


def test_weights_that_do_not_load_are_a_bad_configuration(
    trainer: WarmTrainer, small_run: ARun, models: Callable[[str], Path], tmp_path: Path
) -> None:
    """Found only by the ranks, and told like what the preflight finds; the log's tail goes with it."""
    model = shutil.copytree(models("bert"), tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    ended = trainer.run(small_run.with_("model", uri=model.as_uri()).with_processes(2))
    assert ended.outcome.failure is not None
    assert (ended.code, ended.outcome.failure.reason) == (ExitCode.CONFIG_ERROR, "ModelUnreadable"), ended.log
    assert "spec.model.uri: its weights do not load" in ended.outcome.failure.message


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        pytest.param("training", {"precision": "bf16"}, id="bf16"),
        pytest.param("training", {"labelSmoothing": 0.1, "lrSchedulerType": "cosine"}, id="smooth labels"),
        pytest.param("method", {"type": "lora", "lora": {"targetModules": ["query", "value", "dense"]}}, id="lora"),
    ],
)
def test_other_ways_to_train_learn_too(
    section: str, fields: dict[str, Any], trainer: WarmTrainer, small_run: ARun
) -> None:
    run = small_run.with_("training", learningRate=6e-3).with_(section, **fields)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    assert ended.outcome.metrics["test_accuracy"] >= ended.outcome.metrics["test_baseline_accuracy"] + 0.3


def test_adapters_resume_to_the_same_bytes(trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    """A checkpoint of a LoRA run holds the trained weights only."""
    run = small_run.with_("method", type="lora")
    other = in_folder(run, tmp_path / "other")
    assert trainer.run(other).code == ExitCode.DONE
    attempt = trainer.start(run)
    attempt.until_step(STOPPED_AT)
    attempt.send(signal.SIGTERM)
    assert attempt.end().code == ExitCode.PREEMPTED
    (saved,) = run.checkpoints.glob("step-*")
    assert all("lora_" in name or "classifier" in name for name in load((saved / "model.safetensors").read_bytes()))
    assert trainer.run(next_attempt(run)).code == ExitCode.DONE
    for name in ("model.safetensors", "adapter_model.safetensors"):
        assert (run.folder / "model" / name).read_bytes() == (other.folder / "model" / name).read_bytes()
