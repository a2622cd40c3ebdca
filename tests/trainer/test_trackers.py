"""Trackers show what metrics.jsonl says: every step once over all attempts, and never at the run's cost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.errors import CodeError, ConfigError, Preempted, Unavailable
from finetune_trainer.report.snapshot import Ending, Snapshot
from finetune_trainer.report.trackers import follower
from finetune_trainer.report.trackers.adapter import Adapter, Point, Tracked, flat
from finetune_trainer.report.trackers.choice import adapters_of, check_tracking
from finetune_trainer.report.trackers.follower import Tracking, read_points
from finetune_trainer.report.trackers.mlflow import MLflow
from finetune_trainer.report.trackers.tensorboard import TensorBoard
from support.runs import ARun, WarmTrainer, a_run

TIME = "2026-11-21T10:00:00Z"
TIME_SECONDS = 1795255200.0
PATIENCE = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_log(folder: Path, steps: Sequence[int]) -> None:
    """metrics.jsonl of an attempt that was evaluated every fourth step."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in steps:
        lines.append({"step": step, "epoch": step / 4, "loss": 1 / step, "time": TIME})
        if step % 4 == 0:
            lines.append({"step": step, "epoch": step / 4, "validation_recall@1": step / 100, "time": TIME})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def a_tracked(folder: Path, resumed_step: int | None = None) -> Tracked:
    parameters = {"training": {"seed": 7, "maxSteps": 12}, "dataset": {"train": [{"uri": "./rows.csv"}]}}
    return Tracked("0123456789abcdef", "reviews", folder, parameters, {"job": "reviews", "run": "1"}, resumed_step)


def an_attempt(adapter: Adapter, run: Tracked) -> Tracking:
    """One that has told everything that metrics.jsonl has by now."""
    tracking = Tracking("tracker", adapter, run, interval=0.01)
    tracking.update(Snapshot())
    return tracking


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def end(tracking: Tracking, ending: Ending = Ending.DONE) -> None:
    tracking.update(Snapshot(ending=ending))
    tracking.close()


def two_attempts(make: Any, folder: Path) -> None:
    """The first is killed at step 10, four steps after its checkpoint; the second goes on from there to the end."""
    write_log(folder, range(1, 11))
    killed = an_attempt(make(), a_tracked(folder))
    until(lambda: killed._offset > 0, "points of the first attempt")
    write_log(folder, range(1, 7))
    second = an_attempt(make(), a_tracked(folder, resumed_step=6))
    until(lambda: second._opened, "answer")
    write_log(folder, range(1, 13))
    (folder / "README.md").write_text("# reviews")
    (folder / "evaluation.json").write_text("{}")
    end(second)


def test_only_whole_lines_are_read(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert read_points(log, 0) == ([], 0)
    log.write_text('{"step": 1, "loss": 0.5, "note": "x", "time": "2026-11-21T10:00:00Z"}\n{"step": 2, ')
    points, offset = read_points(log, 0)
    assert points == [Point(1, TIME_SECONDS, {"loss": 0.5})]
    assert read_points(log, offset) == ([], offset)


def test_parameters_are_told_by_their_path() -> None:
    assert list(flat({"a": {"b": 1, "c": [{"d": "x"}]}, "e": None})) == [("a.b", "1"), ("a.c.0.d", "x"), ("e", "None")]


@pytest.mark.torch
def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    two_attempts(TensorBoard, tmp_path)
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("loss")] == list(range(1, 13))
    assert [(event.step, round(event.value, 2)) for event in shown.Scalars("validation_recall@1")] == [
        (4, 0.04),
        (8, 0.08),
        (12, 0.12),
    ]
    assert shown.Scalars("loss")[0].wall_time == TIME_SECONDS
    (text,) = shown.Tensors("run/text_summary")
    assert b'"seed": 7' in text.tensor_proto.string_val[0]
    assert shown.Tensors("card/text_summary")


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real tracking server on a data base of its own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{address}/health"), "MLflow server")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def mlflow_runs(address: str, experiment: str) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(address)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client, list(client.search_runs([found.experiment_id]))


@pytest.mark.timeout(600)
@pytest.mark.torch
def test_mlflow_has_one_run_with_each_step_once(mlflow_server: str, tmp_path: Path) -> None:
    two_attempts(lambda: MLflow(mlflow_server, "two attempts"), tmp_path)
    client, (run,) = mlflow_runs(mlflow_server, "two attempts")
    losses = client.get_metric_history(run.info.run_id, "loss")
    recalls = client.get_metric_history(run.info.run_id, "validation_recall_1")
    assert [(point.step, point.value) for point in losses] == [(step, 1 / step) for step in range(1, 13)]
    assert [point.step for point in recalls] == [4, 8, 12]
    assert losses[0].timestamp == TIME_SECONDS * 1000
    assert run.data.params == {"training.seed": "7", "training.maxSteps": "12", "dataset.train.0.uri": "./rows.csv"}
    assert {name: run.data.tags[name] for name in ("finetune.job", "finetune.run")} == {
        "finetune.job": "reviews",
        "finetune.run": "1",
    }
    assert (run.info.run_name, run.info.status) == ("reviews", "FINISHED")
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["README.md", "evaluation.json"]


def wandb_steps(folder: Path) -> list[int]:
    """Steps of the history in the one offline run that a folder has, which is a log of records in LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, offset, whole, steps = file.read_bytes(), 7, b"", []
    while offset + 7 <= len(data):
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        if kind == 0 or offset % 32768 > 32768 - 7:
            offset += 32768 - offset % 32768
            continue
        whole += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):
            record, whole = Record.FromString(whole), b""
            if record.HasField("history"):
                steps.append(record.history.step.num)
    return steps


class Shaky:
    """A tracker that cannot be reached the first times, or that hangs."""

    def __init__(self, failures: int = 0, hangs: bool = False) -> None:
        self.failures = failures
        self.hangs = hangs
        self.steps: list[int] = []

    def open(self, run: Tracked) -> bool:  # noqa: ARG002
        if self.hangs:
            Event().wait()
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("no route")
        self.steps.clear()
        return False

    def log(self, points: Sequence[Point]) -> None:
        self.steps += [point.step for point in points]

    def close(self, ending: Ending, artifacts: Sequence[Path]) -> None:  # noqa: ARG002
        return None


def test_what_could_not_be_told_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning for all the failures."""
    monkeypatch.setattr(follower, "RETRY", 0.01)
    write_log(tmp_path, range(1, 4))
    tracker = Shaky(failures=3)
    tracking = an_attempt(tracker, a_tracked(tmp_path))
    for _ in range(20):
        tracking.update(Snapshot())
        time.sleep(0.02)
    write_log(tmp_path, range(1, 6))
    end(tracking)
    assert tracker.steps == [1, 2, 3, 4, 4, 5]
    assert caplog.text.count("tracker cannot be told of the run, which goes on: no route") == 1


def test_a_tracker_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "LAST_POINTS", 0.2)
    tracking = an_attempt(Shaky(hangs=True), a_tracked(tmp_path))
    began = time.monotonic()
    end(tracking, Ending.STOPPED)
    assert time.monotonic() - began < 2


@pytest.mark.torch
def test_a_dead_address_costs_no_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_log(tmp_path, range(1, 4))
    tracking = an_attempt(MLflow(f"http://127.0.0.1:{free_port()}", None), a_tracked(tmp_path))
    until(lambda: tracking._failing, "failure")
    began = time.monotonic()
    end(tracking)
    assert time.monotonic() - began < follower.FAILING + 2
    assert caplog.text.count("cannot be told of the run") == 1


def a_config(*trackers: dict[str, Any]) -> RunConfig:
    run = a_run(Path("/runs/quick"), "./rows.csv", "./model")
    return RunConfig.model_validate({**run.config, "tracking": list(trackers)})


WANDB = {"type": "wandb", "project": "reviews"}


@pytest.mark.parametrize(
    ("tracker", "environment", "refused"),
    [
        pytest.param(WANDB, {}, True, id="no key"),
        pytest.param(WANDB, {"WANDB_API_KEY": "k"}, False, id="a key"),
        pytest.param({**WANDB, "mode": "offline"}, {}, False, id="offline needs none"),
        pytest.param(WANDB, {"WANDB_MODE": "offline"}, False, id="nor by W&B's own variable"),
        pytest.param({"type": "tensorboard"}, {}, False, id="a folder"),
        pytest.param({"type": "mlflow", "uri": "http://a"}, {}, False, id="a server"),
    ],
)
def test_a_tracker_that_could_never_be_told_is_refused(
    tracker: dict[str, Any], environment: dict[str, str], refused: bool, tmp_path: Path
) -> None:
    environment = {"NETRC": str(tmp_path / "none"), **environment}
    if not refused:
        check_tracking(a_config(tracker), environment)
        return
    with pytest.raises(ConfigError) as caught:
        check_tracking(a_config(tracker), environment)
    assert caught.value.message == "spec.tracking[0]: there is no key for Weights & Biases"


def test_a_login_on_this_machine_is_a_key(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    check_tracking(a_config(WANDB), {"NETRC": str(tmp_path / "netrc")})


def test_a_tracker_listed_twice_is_told_once_and_a_fold_is_told_nowhere() -> None:
    board, server = {"type": "tensorboard"}, {"type": "mlflow", "uri": "http://a"}
    config = a_config(board, server, board, {**server, "experiment": "b"}, WANDB)
    assert list(adapters_of(config, {})) == [
        "TensorBoard",
        "MLflow at http://a",
        "MLflow at http://a (b)",
        "Weights & Biases (reviews)",
    ]
    fold = {"index": 0, "of": 2, "folder": "/runs/quick"}
    assert adapters_of(RunConfig.model_validate({**config.to_dict(), "fold": fold}), {}) == {}


@pytest.mark.torch
def test_how_an_attempt_ended_for_others() -> None:
    from finetune_trainer.tracking import ending_of

    assert ending_of(Preempted("Preempted", "asked to stop")) is Ending.STOPPED
    assert ending_of(Unavailable("PeerLost", "a peer vanished")) is Ending.STOPPED
    assert ending_of(CodeError("KeyError", "x")) is Ending.FAILED
    assert ending_of(ZeroDivisionError()) is Ending.FAILED
    assert ending_of(Preempted("Superseded", "a later attempt")) is None


@pytest.mark.timeout(600)
@pytest.mark.torch
def test_a_run_that_is_killed_and_goes_on_is_one_run_everywhere(
    mlflow_server: str, trainer: WarmTrainer, small_run: ARun
) -> None:
    """Each tracker has the numbers of metrics.jsonl, none twice, the parameters, and the files at the end."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = [{"type": "tensorboard"}, {"type": "mlflow", "uri": mlflow_server}, WANDB]
    run = small_run.with_("checkpoint", everySteps=8)
    run = ARun(run.root, {**run.config, "tracking": trackers})
    attempt = trainer.start(run, WANDB_MODE="offline")
    attempt.until_step(12)
    attempt.until(lambda: mlflow_has_points(mlflow_server), "points on the server")
    attempt.vanish()
    ended = trainer.run(run.with_("job", attempt=2), WANDB_MODE="offline")
    assert ended.code == ExitCode.DONE, ended.log
    assert "cannot be told" not in ended.log
    losses = {line["step"]: line["loss"] for line in run.lines("metrics.jsonl") if "loss" in line}

    record, evaluation = run.read("run.json"), run.read("evaluation.json")
    assert record["usage"] == evaluation["usage"]
    assert record["usage"]["samples"] == record["data"]["rows"]["train"] * 8
    assert evaluation["environment"]["cores"] == record["environment"]["cores"] > 0

    client, (tracked,) = mlflow_runs(mlflow_server, "finetune")
    history = client.get_metric_history(tracked.info.run_id, "loss")
    assert {point.step: point.value for point in history} == losses
    assert len(history) == len(losses)
    assert tracked.data.metrics["test_accuracy"] == ended.outcome.metrics["test_accuracy"]
    assert tracked.data.params["training.seed"] == "7"
    assert tracked.data.tags["finetune.id"] == run.read("run.json")["id"]
    files = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"README.md", "evaluation.json"} <= files

    shown = EventAccumulator(str(run.folder / "tensorboard"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("loss")] == sorted(losses)
    assert wandb_steps(run.folder) == sorted(losses)
    (folder,) = run.folder.glob("wandb/offline-run-*")
    assert folder.name.endswith(run.read("run.json")["id"])
    assert (folder / "files" / "README.md").read_text() == (run.folder / "README.md").read_text()


def mlflow_has_points(address: str) -> bool:
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("finetune")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return bool(runs and runs[0].data.metrics)
