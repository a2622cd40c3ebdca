"""What a run was made from goes into the status and the termination message, however it ends."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import (
    TERMINATION_BYTES,
    ExitCode,
    Failure,
    FailureClass,
    Outcome,
    Output,
    Provenance,
    Result,
)
from finetune_trainer.provenance import provenance
from support.runs import ARun, WarmTrainer

VERSION = metadata.version("finetune-operator")
DATA, MODEL = {"sha256": "d" * 64, "rows": {}}, {"sha256": "e" * 64, "revision": None, "uri": "file:///model"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param({}, Provenance(trainer_version=VERSION), id="nothing is known yet"),
        pytest.param(
            {"data": DATA, "model": MODEL},
            Provenance(trainer_version=VERSION, model_revision=f"sha256:{'e' * 64}", data_digest=f"sha256:{'d' * 64}"),
            id="a folder",
        ),
        pytest.param(
            {"data": DATA, "model": {**MODEL, "revision": COMMIT}, "versions": {"finetune-operator": "0.0.1"}},
            Provenance(trainer_version="0.0.1", model_revision=COMMIT, data_digest=f"sha256:{'d' * 64}"),
            id="a commit, of a run that is over",
        ),
    ],
)
def test_provenance(known: dict[str, Any], expected: Provenance) -> None:
    assert provenance(known) == expected


def test_it_stays_when_the_message_is_too_long() -> None:
    """The log's tail goes first, and the metrics last."""
    said = provenance({"data": DATA, "model": MODEL})
    failure = Failure(class_=FailureClass.CODE_ERROR, reason="KeyError", message="m" * 2048, log_tail="x" * 8192)
    metrics = {f"{number:02}{'n' * 60}": 0.1234567890123456 for number in range(32)}
    message = Outcome(outcome=Result.FAILED, failure=failure, metrics=metrics, provenance=said).termination_message()
    assert len(message.encode()) <= TERMINATION_BYTES
    read = Outcome.model_validate_json(message)
    assert read.provenance == said
    assert read.failure is not None
    assert not read.failure.log_tail


def test_metrics_go_where_nothing_else_is_left_to_cut() -> None:
    metrics = {f"{number:02}{'n' * 62}": 0.12345678901234567e-300 for number in range(32)}
    outcome = Outcome(
        outcome=Result.SUCCEEDED,
        metrics=metrics,
        output=Output(uri="s3://" + "u" * 1000, pushed_uri="oci://" + "u" * 1000),
    )
    message = outcome.termination_message()
    assert len(message.encode()) <= TERMINATION_BYTES
    read = Outcome.model_validate_json(message)
    assert read.output == outcome.output
    assert list(read.metrics) == list(metrics)[: len(read.metrics)]
    assert len(read.metrics) > 10


@pytest.mark.torch
def test_a_run_says_what_it_was_made_from(trainer: WarmTrainer, small_run: ARun) -> None:
    """In the termination message, status.json and outcome.json, and again by the attempt that finds it finished."""
    run = small_run.with_("training", maxSteps=2)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    record = run.read("run.json")
    expected = {
        "trainerVersion": VERSION,
        "modelRevision": f"sha256:{record['model']['sha256']}",
        "dataDigest": f"sha256:{record['data']['sha256']}",
    }
    assert ended.outcome.provenance is not None
    assert ended.outcome.provenance.to_dict() == expected
    assert run.read("status.json")["provenance"] == run.read("outcome.json")["provenance"] == expected
    again = trainer.run(run.with_("job", attempt=2))
    assert again.outcome.provenance == ended.outcome.provenance


@pytest.mark.torch
def test_a_run_that_does_not_begin_says_what_it_knows(trainer: WarmTrainer, small_run: ARun, tmp_path: Path) -> None:
    ended = trainer.run(small_run.with_("model", uri=(tmp_path / "nowhere").as_uri()))
    assert ended.code == ExitCode.CONFIG_ERROR
    assert ended.outcome.provenance == Provenance(trainer_version=VERSION)
