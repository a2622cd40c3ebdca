"""A job on this machine: where its files go, where claims lie, how many processes work on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.manifest import InvalidManifest, parse_job
from finetune_cli import local
from support.manifests import a_manifest

HERE = Path("/here")
VOLUME_JOB = parse_job(
    a_manifest(
        model={"uri": "pvc://models/bert"},
        dataset={
            "train": [{"uri": "pvc://data/train.csv"}],
            "validation": {"sources": [{"uri": "pvc://data/validation.csv"}]},
        },
        output={"uri": "pvc://results/out"},
        resources={"nodes": 4, "processesPerNode": 2},
    )
)


def test_everything_goes_into_the_runs_folder_on_one_node() -> None:
    config = local.run_config(VOLUME_JOB, Path("/runs/x"), HERE, {"data": Path("/d"), "models": Path("/m")}, None)
    assert (config.folder, config.checkpoint_folder, config.base_folder) == ("/runs/x", "/runs/x/checkpoints", "/here")
    assert (config.resources.nodes, config.resources.processes_per_node) == (1, 2)
    assert config.volumes == {"data": "/d", "models": "/m"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param([], "/here/volumes/downloads/models", id="below ./volumes"),
        pytest.param(["downloads=/mnt/d"], "/mnt/d/models", id="as the option says"),
    ],
)
def test_a_cache_is_a_folder_of_its_claim(options: list[str], expected: str) -> None:
    job = parse_job(a_manifest(cache={"uri": "pvc://downloads/models"}))
    folders = local.volume_folders(job.spec, options, HERE)
    assert local.run_config(job, Path("/runs/x"), HERE, folders, None).cache_folder == expected


@pytest.mark.parametrize(
    ("policy", "seconds"), [pytest.param({}, 1800, id="usual"), pytest.param({"hangTimeoutSeconds": 0}, 0, id="never")]
)
def test_a_run_that_stands_still_is_ended_here_too(policy: dict[str, int], seconds: int) -> None:
    job = parse_job(a_manifest(runPolicy=policy))
    assert local.run_config(job, Path("/runs/x"), HERE, {}, None).hang_timeout_seconds == seconds


def test_without_a_cache_nothing_is_kept() -> None:
    assert local.run_config(parse_job(a_manifest()), Path("/runs/x"), HERE, {}, None).cache_folder is None


def test_processes_of_the_command_line_win() -> None:
    assert local.run_config(VOLUME_JOB, HERE, HERE, {}, 3).resources.processes_per_node == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param([], {"models": "/here/volumes/models", "data": "/here/volumes/data"}, id="below ./volumes"),
        pytest.param(
            ["data=/mnt/data", "models=m"], {"models": "/here/m", "data": "/mnt/data"}, id="as the options say"
        ),
    ],
)
def test_claims_that_the_job_reads_have_a_folder(options: list[str], expected: dict[str, str]) -> None:
    folders = local.volume_folders(VOLUME_JOB.spec, options, HERE)
    assert {claim: str(folder) for claim, folder in folders.items()} == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        pytest.param("data", "--volume data: has no folder (write --volume claim=DIR)", id="no folder"),
        pytest.param(
            "dta=/x",
            "--volume dta: the job does not read this claim (it reads models, data)",
            id="a claim that the job does not read",
        ),
    ],
)
def test_a_useless_volume_option_is_refused(option: str, message: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        local.volume_folders(VOLUME_JOB.spec, [option], HERE)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"uri": "pvc://results/out"}, None, id="a volume is the run's folder"),
        pytest.param({"uri": "s3://b/out/"}, "s3://b/out/default/reviews/local", id="a store gets a folder of the job"),
        pytest.param({"uri": "s3://b/out", "exact": True}, "s3://b/out", id="exactly there"),
        pytest.param({"uri": "hf://owner/name"}, "hf://owner/name", id="a repository is one model's"),
        pytest.param({"uri": "oci://r.example/m:v1"}, "oci://r.example/m:v1", id="a registry's too"),
        pytest.param({"pushTo": "s3://b/copy"}, None, id="a copy is no matter of the output"),
    ],
)
def test_the_output_is_pushed_as_on_a_cluster(output: dict[str, object], expected: str | None) -> None:
    job = parse_job(a_manifest(output=output))
    assert local.run_config(job, HERE, HERE, {}, None).output_uri == expected


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({"command": ["torchrun", "train.py"]}, id="a command"),
        pytest.param({"image": "team/jax:1", "framework": "jax"}, id="a framework"),
    ],
)
def test_a_program_that_is_not_ours_is_not_run_here(trainer: dict[str, object]) -> None:
    job = parse_job(a_manifest(trainer=trainer))
    with pytest.raises(InvalidManifest, match=r"spec\.trainer: names a program of its own"):
        local.run_config(job, HERE, HERE, {}, None)
