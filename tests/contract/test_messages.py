"""What one program writes, the other reads: RunConfig, environment, progress reports, last words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api import names
from finetune_api.progress import (
    BUDGETS,
    Budget,
    ExitCode,
    Failure,
    FailureClass,
    Outcome,
    Progress,
    Result,
    failure_class,
    report,
)
from finetune_operator.core.manifests import RULE_CLASSES
from finetune_operator.core.observe import read_outcome
from finetune_operator.core.plan import freeze
from finetune_operator.core.pod import pod_template
from finetune_operator.core.report import read_report
from finetune_trainer.preflight import load_run_config
from finetune_trainer.settings import ProgressServer, Settings, read_settings
from support.builders import ENDPOINT, a_job

PLAN = a_job().with_nodes(2).plan()


def container_environment() -> dict[str, str]:
    """The environment of rank 0's container, with what the kubelet and the Job controller add."""
    (container,) = pod_template(PLAN, {}, ENDPOINT)["spec"]["containers"]
    given = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    from_fields = {
        item["name"]: f"<{item['name']}>" for item in container["env"] if "fieldRef" in item.get("valueFrom", {})
    }
    return given | from_fields | {names.ENV_NODE_RANK: "1"}


def test_the_trainer_reads_the_run_config_that_the_operator_writes(tmp_path: Path) -> None:
    file = tmp_path / names.RUN_CONFIG_FILE
    file.write_text(freeze(PLAN)[names.RUN_CONFIG_FILE])
    assert load_run_config(file) == PLAN.config


def test_every_default_is_in_the_run_config() -> None:
    """A later version of the trainer must not bring defaults of its own to a run that is frozen."""
    written = json.loads(freeze(PLAN)[names.RUN_CONFIG_FILE])
    assert written["training"] | {"warmupRatio": None} == {
        "numTrainEpochs": 3.0,
        "trainBatchSize": 32,
        "learningRate": 5e-05,
        "lrSchedulerType": "linear",
        "lrSchedulerPower": 2.0,
        "weightDecay": 0.01,
        "maxGradNorm": 1.0,
        "optimizer": "adamw",
        "adamBeta1": 0.9,
        "adamEpsilon": 1e-06,
        "momentum": 0.9,
        "gradientCheckpointing": "Auto",
        "labelSmoothing": 0.0,
        "truncation": True,
        "beta": 0.1,
        "precision": "auto",
        "seed": 42,
        "warmupRatio": None,
    }


def test_the_trainer_understands_the_environment_that_the_operator_gives(tmp_path: Path) -> None:
    termination_log = tmp_path / "log"
    environment = container_environment() | {names.ENV_TERMINATION_LOG: str(termination_log)}
    job = PLAN.config.job
    path = names.PROGRESS_PATH.format(namespace=job.namespace, name=job.name)
    assert read_settings([], environment) == Settings(
        run_config=Path("/etc/finetune/run.json"),
        node_rank=1,
        master_address=f"{PLAN.name}-0.{PLAN.service}",
        master_port=names.MASTER_PORT,
        pod_name=f"<{names.ENV_POD_NAME}>",
        node_name=f"<{names.ENV_NODE_NAME}>",
        termination_log=termination_log,
        metrics_port=names.METRICS_PORT,
        progress_server=ProgressServer(
            url=f"{ENDPOINT.url}{path}",
            token_file=Path(f"{names.TOKEN_DIR}/{names.TOKEN_FILE}"),
            ca_file=Path(f"{names.CONFIG_DIR}/{names.CA_FILE}"),
        ),
    )


def test_the_operator_understands_the_trainers_reports() -> None:
    progress = Progress(percentage=40, step=4, total_steps=10, loss="0.5123", eta_seconds=7)
    body = json.dumps(report(progress, {"checkpoint_step": 3, "validation_accuracy": 0.9})).encode()
    said = read_report(body, run=1, attempt=2)
    assert (said.progress, said.checkpoint.step, said.metrics) == (progress, 3, {"validation_accuracy": 0.9})


def test_the_operator_understands_the_trainers_last_words() -> None:
    failure = Failure(class_=FailureClass.DATA_ERROR, reason="X", message="m" * 2000, log_tail="é" * 8000)
    outcome = Outcome(outcome=Result.FAILED, failure=failure)
    read = read_outcome(outcome.termination_message())
    assert read is not None
    assert read.failure is not None
    assert (read.outcome, read.failure.class_, read.failure.message) == (
        outcome.outcome,
        failure.class_,
        failure.message,
    )


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.DONE], ids=lambda code: code.name)
def test_every_exit_code_has_a_rule_that_tells_its_class_without_the_pod(code: ExitCode) -> None:
    assert failure_class(code) in RULE_CLASSES


def test_what_cannot_get_better_is_never_tried_again() -> None:
    final = {class_ for class_, budget in BUDGETS.items() if budget is Budget.FINAL}
    assert {failure_class(code) for code in (65, 71, 76, 78, 137)} <= final
