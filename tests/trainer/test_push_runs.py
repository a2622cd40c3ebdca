"""A run pushes its model when it is done: at once, later, or not at all, but never by training again.

The real program, with real servers for the places.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.progress import ExitCode, Result
from finetune_api.run import RunConfig
from finetune_trainer.errors import Unavailable
from finetune_trainer.pushing.delivery import ENV_PATIENCE, push_missing
from support.finished_run import a_finished_run, as_model, contents
from support.hub_mirror import TOKEN, HubMirror
from support.registry_server import Access, RegistryServer
from support.runs import ARun, WarmTrainer
from support.s3_server import S3Server

pytestmark = pytest.mark.torch
MANIFEST = "manifest.json"


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    """A server whose bucket `models` is the folder tmp_path/s3/models."""
    (tmp_path / "s3" / "models").mkdir(parents=True)
    (tmp_path / "metadata").mkdir()
    with S3Server(tmp_path / "s3", tmp_path / "server", tmp_path / "metadata") as server:
        yield server


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry", Access.OPEN) as server:
        yield server


@pytest.fixture
def short_run(small_run: ARun) -> ARun:
    return small_run.with_("training", maxSteps=2, numTrainEpochs=None)


def impatient(server: S3Server) -> dict[str, str]:
    return {**server.environment, ENV_PATIENCE: "0"}


def test_a_run_pushes_to_both_places_and_tells_where_its_model_is(
    s3: S3Server, registry: RegistryServer, short_run: ARun, trainer: WarmTrainer, tmp_path: Path
) -> None:
    """Its output and a copy; what is pulled loads and says the same as the run's own model."""
    from oras.provider import Registry
    from transformers import AutoModelForSequenceClassification

    copy = f"oci://{registry.host}/team-a/reviews:v1"
    run = short_run.with_("output", pushTo=copy)
    run = ARun(run.root, {**run.config, "outputUri": "s3://models/team-a/reviews"})
    ended = trainer.run(run, **impatient(s3))
    assert ended.code == ExitCode.DONE, ended.log
    output = ended.outcome.output
    assert output is not None
    assert output.uri == "s3://models/team-a/reviews"
    assert output.pushed_uri == f"oci://{registry.host}/team-a/reviews@{output.pushed_digest}"
    assert run.read("status.json")["output"] == output.to_dict()
    assert run.read("pushed.json")["places"].keys() == {copy, output.uri}

    stored = contents(tmp_path / "s3" / "models" / "team-a" / "reviews")
    folder = contents(run.folder)
    assert json.loads(stored.pop(MANIFEST))["files"].keys() == stored.keys()
    assert stored == {name: folder[name] for name in stored}
    assert {"report.html", "run.json", "model/model.safetensors"} <= stored.keys()

    Registry(insecure=True).pull(f"{registry.host}/team-a/reviews:v1", outdir=str(tmp_path / "pulled"))
    assert contents(tmp_path / "pulled") == as_model(run.folder)
    own, other = (
        AutoModelForSequenceClassification.from_pretrained(path) for path in (run.folder / "model", tmp_path / "pulled")
    )
    assert all(bool((other.state_dict()[name] == tensor).all()) for name, tensor in own.state_dict().items())


def test_after_a_push_that_failed_the_next_attempt_only_pushes(
    s3: S3Server, short_run: ARun, trainer: WarmTrainer
) -> None:
    """The store goes away while the model is trained. That is a fault of the infrastructure, and the model stays."""
    run = short_run.with_("output", pushTo="s3://models/reviews")
    attempt = trainer.start(run, **impatient(s3))
    attempt.until(lambda: (run.folder / "run.json").exists(), "training")
    s3.stop()
    first = attempt.end()
    assert first.code == ExitCode.UNAVAILABLE, first.log
    assert first.outcome.failure is not None
    assert first.outcome.failure.message.startswith("spec.output.pushTo: the store did not take s3://models/reviews: ")
    assert run.read("status.json")["phase"] == "Failed"
    weights = (run.folder / "model" / "model.safetensors").stat()
    with s3:
        second = trainer.run(run, **impatient(s3))
    assert second.code == ExitCode.DONE, second.log
    after = (run.folder / "model" / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (weights.st_ino, weights.st_mtime_ns), "it trained again"
    assert second.outcome.output is not None
    assert second.outcome.output.pushed_uri == "s3://models/reviews"
    assert second.outcome.metrics == first.outcome.metrics != {}
    assert run.read("status.json")["phase"] == "Succeeded"
    third = trainer.run(run, **{**s3.environment, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert (third.code, third.outcome) == (ExitCode.DONE, second.outcome), "all is done: nobody is asked"


def test_a_finished_run_pushes_to_a_place_that_is_named_later(
    short_run: ARun, trainer: WarmTrainer, tmp_path: Path
) -> None:
    """A process of its own: the hub's address is read when its client is imported."""
    assert trainer.run(short_run).code == ExitCode.DONE
    run = short_run.with_("output", pushTo="hf://team/reviews")
    with HubMirror() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "finetune_trainer", str(run.write())]
        done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
        assert done.returncode == ExitCode.DONE, done.stdout + done.stderr
        repository = hub.repositories["models", "team/reviews"]
        found = contents(repository.commits[repository.branches["main"]])
    output = run.read("outcome.json")["output"]
    assert output["pushedUri"] == f"hf://team/reviews@{repository.branches['main']}"
    assert {name: content for name, content in found.items() if name != ".gitattributes"} == as_model(run.folder)


def test_a_model_that_failed_its_gate_is_kept_and_not_pushed(
    s3: S3Server, short_run: ARun, trainer: WarmTrainer, tmp_path: Path
) -> None:
    run = short_run.with_("output", pushTo="s3://models/reviews")
    run = run.with_("evaluation", gate=[{"metric": "test_accuracy", "min": 2.0}])
    for _ in range(2):
        ended = trainer.run(run, **impatient(s3))
        assert ended.code == ExitCode.EVALUATION_GATE_FAILED, ended.log
    assert (run.folder / "model").is_dir()
    assert contents(tmp_path / "s3" / "models") == {}


@pytest.mark.parametrize(
    ("place", "environment", "code", "message"),
    [
        pytest.param(
            "s3://models/reviews",
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            ExitCode.AUTH_ERROR,
            "spec.output.pushTo: the store does not let us write to s3://models/reviews: SignatureDoesNotMatch",
            id="wrong credentials",
        ),
        pytest.param(
            "oci://reviews:v1",
            {},
            ExitCode.CONFIG_ERROR,
            "spec.output.pushTo: oci://reviews:v1 is no repository of a registry",
            id="no registry",
        ),
    ],
)
def test_a_place_that_will_not_take_the_model_is_known_before_training(
    place: str,
    environment: dict[str, str],
    code: ExitCode,
    message: str,
    s3: S3Server,
    short_run: ARun,
    trainer: WarmTrainer,
) -> None:
    run = short_run.with_("output", pushTo=place)
    ended = trainer.run(run, **{**impatient(s3), **environment})
    assert ended.code == code, ended.log
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.message == message
    assert not (run.folder / "run.json").exists()


def test_a_run_that_is_stopped_while_it_pushes_goes_on_with_the_push(
    s3: S3Server, short_run: ARun, trainer: WarmTrainer
) -> None:
    run = short_run.with_("output", pushTo="s3://models/reviews")
    attempt = trainer.start(run, **{**s3.environment, ENV_PATIENCE: "600"})
    attempt.until(lambda: (run.folder / "run.json").exists(), "training")
    s3.stop()
    attempt.until(lambda: "next try in" in attempt.log, "a push that waits")
    assert run.read("status.json")["conditions"][0]["reason"] == "Pushing"
    attempt.send(signal.SIGTERM)
    stopped = attempt.end()
    assert (stopped.code, stopped.outcome.outcome) == (ExitCode.PREEMPTED, Result.PREEMPTED), stopped.log
    assert run.read("status.json")["phase"] == "Suspended"
    with s3:
        assert trainer.run(run, **impatient(s3)).code == ExitCode.DONE


def test_a_place_that_does_not_answer_is_asked_again_for_as_long_as_patience_lasts(
    tmp_path: Path, short_run: ARun
) -> None:
    run = ARun(tmp_path, {**short_run.config, "folder": str(a_finished_run(tmp_path / "done", megabytes=0.1))})
    config = RunConfig.model_validate(run.with_("output", pushTo="oci://127.0.0.1:9/reviews:v1").config)
    waited: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    with pytest.raises(Unavailable):
        push_missing(config, 100, sleep, lambda: clock[0])
    assert waited == [2, 4, 8, 16, 30, 30]
