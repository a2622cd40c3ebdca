"""What a run tells while it goes: Prometheus' page, progress reports over TLS, status.json and lines for people."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.progress import ExitCode, ProgressReport
from finetune_api.run import JobIdentity
from finetune_api.status import Status
from finetune_trainer.report import kubeflow
from finetune_trainer.report.console import Console, duration, line
from finetune_trainer.report.prometheus import MetricsPage
from finetune_trainer.report.snapshot import Activity, Snapshot
from finetune_trainer.report.status_file import StatusFile
from finetune_trainer.settings import ProgressServer
from support.progress_server import ProgressServerForTests
from support.runs import ARun, WarmTrainer

NOW = 1_795_255_200.0
SNAPSHOT = Snapshot(
    activity=Activity.TRAINING,
    step=40,
    total_steps=96,
    epoch=2.5,
    loss=0.34567,
    loss_step=40,
    learning_rate=1.25e-4,
    grad_norm=1.5,
    samples=1280,
    tokens=25_600,
    tokens_per_second=3411.4,
    eta_seconds=41.4,
    data_wait_seconds=0.25,
    checkpoint_stall_seconds=0.75,
    checkpoint_step=30,
    checkpoint_time=NOW - 5,
    checkpoint_uri="/runs/quick/checkpoints/step-30",
    resumed_from_step=20,
    metrics={"validation_accuracy": 0.9},
    started=NOW - 60,
    time=NOW,
)
PAGE = """\
# HELP finetune_trainer_loss Training loss, mean since the last log point.
# TYPE finetune_trainer_loss gauge
finetune_trainer_loss 0.34567
# HELP finetune_trainer_learning_rate Learning rate of the last step.
# TYPE finetune_trainer_learning_rate gauge
finetune_trainer_learning_rate 0.000125
# HELP finetune_trainer_grad_norm Norm of the gradient before clipping.
# TYPE finetune_trainer_grad_norm gauge
finetune_trainer_grad_norm 1.5
# HELP finetune_trainer_step Optimizer steps done.
# TYPE finetune_trainer_step gauge
finetune_trainer_step 40.0
# HELP finetune_trainer_steps_total Optimizer steps in the whole run.
# TYPE finetune_trainer_steps_total gauge
finetune_trainer_steps_total 96.0
# HELP finetune_trainer_epoch Passes over the training rows.
# TYPE finetune_trainer_epoch gauge
finetune_trainer_epoch 2.5
# HELP finetune_trainer_eta_seconds Estimated seconds to the end.
# TYPE finetune_trainer_eta_seconds gauge
finetune_trainer_eta_seconds 41.4
# HELP finetune_trainer_checkpoint_last_step Step of the newest complete checkpoint.
# TYPE finetune_trainer_checkpoint_last_step gauge
finetune_trainer_checkpoint_last_step 30.0
# HELP finetune_trainer_samples_total Rows trained on, over all processes.
# TYPE finetune_trainer_samples_total counter
finetune_trainer_samples_total 1280.0
# HELP finetune_trainer_tokens_total Tokens trained on, over all processes.
# TYPE finetune_trainer_tokens_total counter
finetune_trainer_tokens_total 25600.0
# HELP finetune_trainer_data_wait_seconds_total Seconds that rank 0 waited for batches.
# TYPE finetune_trainer_data_wait_seconds_total counter
finetune_trainer_data_wait_seconds_total 0.25
# HELP finetune_trainer_checkpoint_stall_seconds_total Seconds that training stood still for checkpoints.
# TYPE finetune_trainer_checkpoint_stall_seconds_total counter
finetune_trainer_checkpoint_stall_seconds_total 0.75
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text: str = response.read().decode()
        return text


def test_the_whole_metrics_page() -> None:
    port = free_port()
    MetricsPage(port).update(SNAPSHOT)
    assert scrape(port) == PAGE


def test_a_port_that_is_taken_is_not_fatal(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        MetricsPage(port).update(SNAPSHOT)
    assert f"no metrics page: port {port}: Address already in use" in caplog.text


def test_status_json_is_a_status(tmp_path: Path) -> None:
    StatusFile(tmp_path, JobIdentity(namespace="n", name="quick", uid="u", attempt=3)).update(SNAPSHOT)
    value = json.loads((tmp_path / "status.json").read_text())
    assert Status.model_validate(value).to_dict() == value
    assert value == {
        "phase": "Running",
        "conditions": [
            {
                "type": "Running",
                "status": "True",
                "reason": "Training",
                "message": "",
                "lastTransitionTime": "2026-11-21T10:00:00Z",
            }
        ],
        "attempt": 3,
        "startTime": "2026-11-21T09:59:00Z",
        "progress": {
            "percentage": 41,
            "step": 40,
            "totalSteps": 96,
            "epoch": "2.50",
            "loss": "0.3457",
            "tokensPerSecond": 3411,
            "etaSeconds": 41,
            "lastUpdatedTime": "2026-11-21T10:00:00Z",
        },
        "metrics": {"validation_accuracy": 0.9},
        "checkpoint": {
            "step": 30,
            "uri": "/runs/quick/checkpoints/step-30",
            "time": "2026-11-21T09:59:55Z",
            "resumedFromStep": 20,
        },
        "history": [],
    }


def test_status_json_is_written_twice_a_second_at_most(tmp_path: Path) -> None:
    """Unless the activity changes; the last snapshot is never lost."""
    sink = StatusFile(tmp_path, JobIdentity(namespace="n", name="quick", uid="u"))
    seen = []
    for step, activity, seconds in [(1, "Training", 0.0), (2, "Training", 0.4), (3, "Saving", 0.4), (4, "Saving", 0.9)]:
        sink.update(replace(SNAPSHOT, step=step, activity=Activity(activity), time=NOW + seconds))
        seen.append(json.loads((tmp_path / "status.json").read_text())["progress"]["step"])
    assert seen == [1, 1, 3, 4]
    sink.update(replace(SNAPSHOT, step=5, activity=Activity.SAVING, time=NOW + 1.0))
    sink.close()
    assert json.loads((tmp_path / "status.json").read_text())["progress"]["step"] == 5


def test_a_line_for_people() -> None:
    assert line(SNAPSHOT) == "step 40/96  epoch 2.50  loss 0.3457  lr 1.3e-04  3411 tokens/s  ETA 0:41"


def test_lines_come_once_a_second_and_with_their_own_loss(caplog: pytest.LogCaptureFixture) -> None:
    """A new step without its loss is no line; the last loss always is."""
    caplog.set_level("INFO")
    console = Console()
    moments = [(94, 94, 0.0), (95, 94, 2.0), (95, 95, 2.0), (96, 95, 2.1), (96, 96, 2.1), (96, 96, 5.0)]
    for step, loss_step, seconds in moments:
        console.update(replace(SNAPSHOT, step=step, loss_step=loss_step, time=NOW + seconds))
    assert [record.getMessage().split()[1] for record in caplog.records] == ["94/96", "95/96", "96/96"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(41.4, "0:41", id="seconds"),
        pytest.param(725, "12:05", id="minutes"),
        pytest.param(10_807, "3:00:07", id="hours"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_report_speaks_the_protocol_over_tls(tmp_path: Path) -> None:
    """Method, path, headers and body as the operator and Kubeflow Trainer expect them; the token is read anew."""
    with ProgressServerForTests(tmp_path) as server:
        target = ProgressServer(server.url, server.token_file, server.ca_file)
        for token in ("first", "second"):
            server.token_file.write_text(f"{token}\n")
            kubeflow.post(target, kubeflow.body_of(SNAPSHOT))
        first, second = server.received
    assert (first.method, first.path, first.content_type) == ("POST", server.path, "application/json")
    assert [first.authorization, second.authorization] == ["Bearer first", "Bearer second"]
    assert first.body == {
        "trainerStatus": {
            "progressPercentage": 41,
            "estimatedRemainingSeconds": 41,
            "metrics": [
                {"name": "step", "value": "40"},
                {"name": "total_steps", "value": "96"},
                {"name": "epoch", "value": "2.50"},
                {"name": "loss", "value": "0.3457"},
                {"name": "tokens_per_second", "value": "3411"},
                {"name": "learning_rate", "value": "0.000125"},
                {"name": "grad_norm", "value": "1.5"},
                {"name": "checkpoint_step", "value": "30"},
                {"name": "resumed_from_step", "value": "20"},
                {"name": "validation_accuracy", "value": "0.9"},
            ],
            "lastUpdatedTime": "2026-11-21T10:00:00Z",
        }
    }


def test_reports_are_throttled_and_the_last_one_arrives(tmp_path: Path) -> None:
    with ProgressServerForTests(tmp_path) as server:
        reports = kubeflow.ProgressReports(ProgressServer(server.url, server.token_file, server.ca_file), interval=60)
        for step in range(1, 50):
            reports.update(Snapshot(step=step, total_steps=50))
            time.sleep(0.01)
        reports.close()
        steps = [report.numbers["step"] for report in server.received]
    assert len(steps) == 2
    assert steps[-1] == 49


def test_reports_that_fail_are_said_once_and_hold_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "token").write_text("token")
    server = ProgressServer(f"https://127.0.0.1:{free_port()}/status", tmp_path / "token", None)
    reports = kubeflow.ProgressReports(server, interval=0.01)
    started = time.monotonic()
    for step in range(20):
        reports.update(Snapshot(step=step, total_steps=50))
        time.sleep(0.02)
    reports.close()
    assert time.monotonic() - started < 5
    assert caplog.text.count("progress report to") == 1


@pytest.mark.torch
def test_a_run_reports_while_it_goes(trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    """A pod's environment turns both on: the page is served while the run goes, and the reports tell the end."""
    port = free_port()
    with ProgressServerForTests(tmp_path) as server:
        environment = {
            "KUBEFLOW_TRAINER_SERVER_URL": server.url,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(server.ca_file),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(server.token_file),
            "FINETUNE_METRICS_PORT": str(port),
        }
        attempt = trainer.start(small_run, **environment)
        attempt.until_step(10)
        page = scrape(port)
        ended = attempt.end()
        last = ProgressReport.model_validate(server.received[-1].body).trainer_status
    assert ended.code == ExitCode.DONE, ended.log
    assert {name.split()[0] for name in page.splitlines() if not name.startswith("#")} >= {
        name.split()[0] for name in PAGE.splitlines() if not name.startswith("#") and "checkpoint" not in name
    }
    assert last.progress() == ended.outcome.progress
    assert {name: last.numbers()[name] for name in ended.outcome.metrics} == ended.outcome.metrics
    assert last.numbers()["checkpoint_step"] == last.numbers()["step"]
