"""Bring your own program: what its container runs, and what it is told of its peers, compared as whole objects."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.core import programs
from finetune_operator.core.manifests import manifests
from finetune_operator.core.plan import Plan
from finetune_operator.core.pod import pod_template
from support.builders import ENDPOINT, AJob, a_job

NAME, SERVICE, UID = "reviews-0a1b2-r1a1", "reviews-0a1b2-r1", "0a1b2c3d-0000-4000-8000-000000000001"
RANK = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
TORCHRUN = ["torchrun", "train.py"]


def container(plan: Plan) -> dict[str, Any]:
    (found,) = pod_template(plan, {}, ENDPOINT)["spec"]["containers"]
    return dict(found)


def told(job: AJob) -> dict[str, Any]:
    """What the program is told that our trainer is not."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in programs.environment(job.plan())}


def own(**trainer: Any) -> AJob:
    return a_job().with_nodes(2).with_spec(trainer=trainer)


LAUNCHED = ["python3", "-I", "/etc/finetune/launch.py", "--"]


@pytest.mark.parametrize(
    ("trainer", "runs"),
    [
        pytest.param({}, {}, id="our trainer"),
        pytest.param({"image": "ours:2"}, {}, id="another image of our trainer"),
        pytest.param({"command": TORCHRUN}, {"command": [*LAUNCHED, *TORCHRUN]}, id="torch is what a program uses"),
        pytest.param(
            {"framework": "tensorflow", "command": ["python3"], "args": ["train.py"]},
            {"command": [*LAUNCHED, "python3"], "args": ["train.py"]},
            id="command and arguments",
        ),
        pytest.param(
            {"framework": "jax", "args": ["--steps=9"]}, {"args": ["--steps=9"]}, id="the image's own program"
        ),
        pytest.param(
            {"framework": "custom", "command": ["/train"]}, {"command": ["/train"]}, id="an image without a Python"
        ),
    ],
)
def test_what_the_container_runs(trainer: dict[str, Any], runs: dict[str, Any]) -> None:
    plan = own(**trainer).plan()
    made = container(plan)
    assert {field: made[field] for field in ("command", "args") if field in made} == runs
    starts = "launch.py" in " ".join(made.get("command", []))
    assert programs.files(plan, "text") == ({"launch.py": "text"} if starts else {})


COMMON = {
    "FINETUNE_NODE_RANK": RANK,
    "FINETUNE_NODES": "2",
    "FINETUNE_HOSTS": f"{NAME}-0.{SERVICE},{NAME}-1.{SERVICE}",
    "FINETUNE_OUTPUT_DIR": "/volumes/models/reviews/team-a/reviews/0a1b2",
    "FINETUNE_CHECKPOINT_DIR": "/volumes/models/reviews/team-a/reviews/0a1b2/checkpoints",
    "FINETUNE_GRACE_SECONDS": "120",
}
TORCHRUNS = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "1",
    "PET_NODE_RANK": RANK,
    "PET_MASTER_ADDR": f"{NAME}-0.{SERVICE}",
    "PET_MASTER_PORT": "29500",
    "PET_SHUTDOWN_TIMEOUT": "125",
}
ONE_PROCESS = {"RANK": RANK, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    ("job", "variables"),
    [
        pytest.param(own(), None, id="our trainer"),
        pytest.param(own(command=TORCHRUN), TORCHRUNS | ONE_PROCESS, id="torch, one process a pod"),
        pytest.param(
            own(framework="torch").with_spec(resources={"gpusPerNode": 8}),
            TORCHRUNS | {"PET_NPROC_PER_NODE": "8"},
            id="torch, a process a GPU",
        ),
        pytest.param(
            own(framework="torch").with_spec(resources={"processesPerNode": 3}, checkpoint={"graceSeconds": 60}),
            TORCHRUNS | {"PET_NPROC_PER_NODE": "3", "PET_SHUTDOWN_TIMEOUT": "65", "FINETUNE_GRACE_SECONDS": "60"},
            id="torch, three processes a pod",
        ),
        pytest.param(
            own(framework="tensorflow"),
            {
                "TF_CONFIG": f'{{"cluster":{{"worker":["{NAME}-0.{SERVICE}:29500","{NAME}-1.{SERVICE}:29500"]}},'
                '"task":{"type":"worker","index":$(FINETUNE_NODE_RANK)}}'
            },
            id="tensorflow",
        ),
        pytest.param(
            own(framework="jax"),
            {
                "JAX_COORDINATOR_ADDRESS": f"{NAME}-0.{SERVICE}:29500",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": RANK,
            },
            id="jax",
        ),
        pytest.param(own(framework="custom"), {}, id="custom"),
    ],
)
def test_what_a_program_is_told(job: AJob, variables: dict[str, Any] | None) -> None:
    assert told(job) == ({} if variables is None else COMMON | variables)


def test_the_config_map_has_the_launcher_of_a_program_that_it_starts() -> None:
    endpoint = replace(ENDPOINT, launcher="the text")
    ours, theirs = (manifests(job.plan(), endpoint)[0]["data"] for job in (own(), own(command=TORCHRUN)))
    assert ("launch.py" in ours, theirs["launch.py"]) == (False, "the text")


def test_one_pod_reaches_itself_without_a_service() -> None:
    job = a_job().with_spec(trainer={"framework": "tensorflow"})
    index = {"FINETUNE_NODE_RANK": "0"}
    config = told(job)["TF_CONFIG"].replace("$(FINETUNE_NODE_RANK)", index["FINETUNE_NODE_RANK"])
    assert json.loads(config) == {"cluster": {"worker": ["127.0.0.1:29500"]}, "task": {"type": "worker", "index": 0}}
    assert told(job)["FINETUNE_HOSTS"] == "127.0.0.1"


def test_names_of_hosts_that_would_not_fit_are_left_out() -> None:
    assert len(told(own(framework="custom").with_nodes(1000))["FINETUNE_HOSTS"]) < 128 * 1024
    assert "FINETUNE_HOSTS" not in told(own(framework="custom").with_nodes(1001))


def test_a_program_is_told_where_its_downloads_are_noted() -> None:
    """The path that `python -m finetune_trainer.fetch` writes to."""
    plan = own(command=TORCHRUN).with_spec(dataset={"train": [{"uri": "s3://data/rows.csv"}]}).plan()
    cached = replace(plan, config=plan.config.model_copy(update={"cache_folder": "/volumes/cache/here"}))
    (found,) = (item["value"] for item in programs.environment(cached) if item["name"] == "FINETUNE_SOURCES")
    assert found == f"/volumes/cache/here/runs/{UID}-1.json"


def test_what_the_manifest_sets_wins_and_may_name_the_rank() -> None:
    """Kubernetes expands $(NAME) only in what stands after NAME."""
    config = {"name": "TF_CONFIG", "value": '{"task": $(FINETUNE_NODE_RANK)}'}
    job = own(framework="tensorflow", env=[config, {"name": "PET_MAX_RESTARTS", "value": "2"}])
    entries = container(job.plan())["env"]
    names = [entry["name"] for entry in entries]
    assert [entry for entry in entries if entry["name"] == "TF_CONFIG"] == [config]
    assert names.index("FINETUNE_NODE_RANK") < names.index("TF_CONFIG")
    assert {"name": "PET_MAX_RESTARTS", "value": "2"} in entries


def test_the_rank_stands_before_what_is_made_of_it() -> None:
    for framework in ("torch", "tensorflow", "jax", "custom"):
        assert programs.environment(own(framework=framework).plan())[0]["name"] == "FINETUNE_NODE_RANK"


def test_a_program_gets_what_our_trainer_gets_too() -> None:
    """Progress, the run's configuration and the rendezvous; and the same security context, volumes and resources."""
    ours, theirs = container(own().plan()), container(own(command=TORCHRUN).plan())
    assert [entry for entry in ours["env"] if entry not in theirs["env"]] == []
    changed = {"command", "env"}
    assert {k: v for k, v in theirs.items() if k not in changed} == {k: v for k, v in ours.items() if k not in changed}
