"""A job that cannot work ends at once, before torch: exit code, class, reason and a message that names the field.

Through the real program, started as in a pod.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import Outcome
from finetune_trainer.files import read_json
from support.models import sentences, write_rows
from support.runs import ARun, a_run

SECONDS = 20
"""Far more than the check takes, and less than the import of torch would on a busy machine."""


@pytest.fixture
def run(tmp_path: Path) -> ARun:
    """A run whose model is a folder with everything but weights that could be loaded."""
    write_rows(tmp_path / "rows.csv", sentences(60))
    model = tmp_path / "model"
    model.mkdir()
    config = {"model_type": "bert", "max_position_embeddings": 64, "hidden_size": 32}
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    return a_run(tmp_path, "./rows.csv", "./model")


def execute(run: ARun, **environment: str) -> tuple[int, Outcome, str]:
    """The program's exit code, termination message and log; torch may not be imported."""
    message = run.root / "termination"
    blocked = run.root / "blocked"
    (blocked / "torch").mkdir(parents=True, exist_ok=True)
    (blocked / "torch" / "__init__.py").write_text("raise RuntimeError('the preflight imported torch')")
    own = {"FINETUNE_TERMINATION_LOG": str(message), "PYTHONPATH": str(blocked), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", str(run.write())],
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return process.returncode, Outcome.model_validate_json(message.read_text()), process.stdout + process.stderr


def one_label(run: ARun) -> ARun:
    write_rows(run.root / "rows.csv", [(text, "same") for text, _ in sentences(60)])
    return run


def few_rows(run: ARun) -> ARun:
    write_rows(run.root / "rows.csv", sentences(2))
    return run


def nan_label(run: ARun) -> ARun:
    write_rows(run.root / "rows.csv", [*sentences(60), ("what", "nan")])
    same = {"sources": [{"uri": "./rows.csv"}]}
    return run.with_("dataset", test=same, validation=same, dedup={"acrossSplits": False})


def unknown_label(run: ARun) -> ARun:
    write_rows(run.root / "test.csv", [("what", "prise")])
    return run.with_("dataset", test={"sources": [{"uri": "./test.csv"}]})


def no_weights(run: ARun) -> ARun:
    (run.root / "model" / "model.safetensors").unlink()
    return run


def not_a_model(run: ARun) -> ARun:
    (run.root / "model" / "config.json").unlink()
    return run


def another_architecture(run: ARun) -> ARun:
    (run.root / "model" / "config.json").write_text('{"model_type": "resnet"}')
    return run


@pytest.mark.parametrize(
    ("spoil", "code", "reason", "message", "hint"),
    [
        pytest.param(
            lambda run: run.with_("dataset", columns={"text": "sentence"}),
            78,
            "ColumnNotFound",
            "spec.dataset.columns.text: ./rows.csv has no column 'sentence'",
            "columns there are: label, text",
            id="column that is not there",
        ),
        pytest.param(
            lambda run: run.with_("dataset", train=[{"uri": "./row.csv"}]),
            78,
            "NotFound",
            "spec.dataset.train[0].uri: ./row.csv does not exist",
            "did you mean rows.csv?",
            id="file that is not there",
        ),
        pytest.param(
            lambda run: run.with_("model", uri="pkg://no_such_encoder/model"),
            78,
            "PackageNotFound",
            "spec.model.uri: pkg://no_such_encoder/model names the Python package no_such_encoder",
            "build it into the trainer image",
            id="model that is not there",
        ),
        pytest.param(
            another_architecture,
            78,
            "UnsupportedModel",
            "spec.model.uri: ./model is a resnet model, which cannot do this task",
            "model types that can: albert, ",
            id="architecture that cannot do it",
        ),
        pytest.param(no_weights, 78, "NotAModel", "./model has no weights", "model.safetensors", id="no weights"),
        pytest.param(not_a_model, 78, "NotAModel", "no config.json", "save_pretrained", id="not a model"),
        pytest.param(
            lambda run: run.with_("training", maxLength=65),
            78,
            "TooLong",
            "spec.training.maxLength: the model takes at most 64 tokens, not 65",
            "use 64 or less",
            id="texts longer than the model takes",
        ),
        pytest.param(
            lambda run: run.with_("evaluation", metricForBestModel="accurracy"),
            78,
            "UnknownMetric",
            "spec.evaluation.metricForBestModel: text-classification has no metric 'accurracy'",
            "did you mean accuracy?",
            id="metric that the task does not have",
        ),
        pytest.param(
            lambda run: run.with_("training", labelSmoothing=0.1).with_("dataset", problemType="MultiLabel"),
            78,
            "NotSupported",
            "spec.training.labelSmoothing: text-classification cannot use it",
            "leave it out",
            id="smoothing of what is yes or no",
        ),
        pytest.param(
            lambda run: run.with_("evaluation", forgetting={"uri": "./rows.csv"}),
            78,
            "NothingToForget",
            "spec.evaluation.forgetting: the pre-trained model's labels (none) are not those of the training rows",
            "already fine-tuned",
            id="forgetting of what it never knew",
        ),
        pytest.param(
            lambda run: run.with_("dataset", validation={"fraction": 0.5}, test={"fraction": 0.5}),
            78,
            "NothingToTrainOn",
            "validation.fraction and test.fraction leave no rows",
            "less than 1",
            id="everything held out",
        ),
        pytest.param(
            lambda run: run.with_("dataset", augment={"image": {"crop": {}}}),
            78,
            "NothingToAugment",
            "spec.dataset.augment.image: text-classification has no image here that could be changed",
            "it takes spec.dataset.augment.text",
            id="augmentation of what is not there",
        ),
        pytest.param(
            lambda run: run.with_(
                "dataset", balance={"classWeights": "Custom", "weights": [{"label": "prais", "weight": 2}]}
            ),
            78,
            "UnknownLabel",
            "spec.dataset.balance.weights[0].label: no training row has the label 'prais'",
            "did you mean praise? labels: delivery, invoice, praise",
            id="weight of a label that is not there",
        ),
        pytest.param(
            one_label,
            65,
            "OneLabel",
            "training rows have the label 'same'",
            "spec.dataset.columns.label",
            id="one label",
        ),
        pytest.param(nan_label, 65, "EmptyValue", "row 61 of ./rows.csv: the label is NaN", "fill", id="NaN label"),
        pytest.param(
            unknown_label,
            65,
            "UnknownLabel",
            "row 1 of ./test.csv: no training row has the label 'prise'",
            "did you mean praise? labels: delivery, invoice, praise",
            id="label only in the test rows",
        ),
        pytest.param(
            few_rows,
            65,
            "EmptySplit",
            "spec.dataset.test.fraction: 0.15 of 2 rows is no row",
            "fraction",
            id="empty split",
        ),
        pytest.param(
            lambda run: run.with_("model", uri="hf://owner/name"),
            69,
            "HubUnavailable",
            "spec.model.uri: the hub did not give owner/name",
            "without a network use",
            id="hub without a network",
        ),
    ],
)
def test_a_bad_job(spoil: Any, code: int, reason: str, message: str, hint: str, run: ARun) -> None:
    run = spoil(run)
    started = time.monotonic()
    exit_code, outcome, log = execute(run)
    assert outcome.failure is not None, log
    assert (exit_code, outcome.failure.reason) == (code, reason), log
    assert message in outcome.failure.message
    assert hint in (outcome.failure.hint or "")
    assert message in log
    assert time.monotonic() - started < SECONDS
    assert outcome == Outcome.model_validate(run.read("outcome.json"))
    assert run.read("status.json")["phase"] == "Failed"


def test_a_run_config_with_mistakes_names_all_of_them(run: ARun) -> None:
    broken = run.with_("training", learningRate=7, epochs=3)
    code, outcome, _ = execute(broken)
    assert outcome.failure is not None
    assert (code, outcome.failure.reason) == (78, "RunConfigInvalid")
    assert "training.learningRate" in outcome.failure.message
    assert "training.epochs: there is no such field" in outcome.failure.message
    assert not run.folder.exists()


def test_a_folder_that_cannot_be_written_is_unavailable(run: ARun) -> None:
    (run.root / "file").write_text("")
    blocked = ARun(run.root, {**run.config, "folder": str(run.root / "file" / "run")})
    code, outcome, _ = execute(blocked)
    assert outcome.failure is not None
    assert (code, outcome.failure.reason) == (69, "StoreUnavailable")


def test_a_superseded_attempt_touches_nothing(run: ARun) -> None:
    run.checkpoints.mkdir(parents=True)
    fence = run.checkpoints / "FENCE"
    fence.write_text('{"uid": "0a1b2c3d", "run": 1, "attempt": 2}')
    code, outcome, _ = execute(run)
    assert outcome.failure is not None
    assert (code, outcome.failure.reason) == (75, "Superseded")
    assert [path.name for path in run.folder.iterdir()] == ["checkpoints"]
    assert read_json(fence) == {"uid": "0a1b2c3d", "run": 1, "attempt": 2}


def test_a_model_that_the_hub_does_not_have_is_a_bad_configuration(run: ARun) -> None:
    """The hub's answer, from a server that speaks its protocol: 404 is final, where no answer at all is not."""
    with hub_without_anything() as endpoint:
        code, outcome, log = execute(
            run.with_("model", uri="hf://owner/nmae"), HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0", HF_HOME=str(run.root)
        )
    assert outcome.failure is not None, log
    assert (code, outcome.failure.reason) == (78, "NotFound")
    assert outcome.failure.message == "spec.model.uri: the hub has no model owner/nmae"


@contextmanager
def hub_without_anything() -> Iterator[str]:
    """A server that answers every question as the hub does for repositories that it does not have."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_pod_and_its_node_are_named(run: ARun) -> None:
    bad = run.with_("dataset", train=[{"uri": "./row.csv"}])
    _, outcome, _ = execute(bad, FINETUNE_POD_NAME="quick-0", FINETUNE_NODE_NAME="node-a")
    assert outcome.failure is not None
    assert (outcome.failure.pod, outcome.failure.node) == ("quick-0", "node-a")
