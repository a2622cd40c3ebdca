"""The surroundings say what is on: in a pod metrics and reports, with `finetune run` neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.handover import cache_environment
from finetune_trainer.settings import ProgressServer, Settings, read_settings

LOCAL = Settings(run_config=Path("/etc/finetune/run.json"))


@pytest.fixture(autouse=True)
def no_termination_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some machines that run tests are pods themselves."""
    monkeypatch.setattr("finetune_api.names.TERMINATION_LOG", "/nonexistent")


@pytest.mark.parametrize(
    ("arguments", "environment", "settings"),
    [
        pytest.param([], {}, LOCAL, id="nothing said"),
        pytest.param(["a.json"], {"FINETUNE_RUN_CONFIG": "b.json"}, Settings(Path("a.json")), id="argument first"),
        pytest.param([], {"FINETUNE_RUN_CONFIG": "b.json"}, Settings(Path("b.json")), id="environment"),
        pytest.param(
            ["a.json"], {"FINETUNE_METRICS_PORT": "0"}, Settings(Path("a.json"), metrics_port=0), id="metrics here"
        ),
        pytest.param(
            ["a.json"],
            {"KUBEFLOW_TRAINER_SERVER_URL": "https://x"},
            Settings(Path("a.json")),
            id="no reports without a token",
        ),
        pytest.param(
            [],
            {
                "FINETUNE_RUN_CONFIG": "/etc/finetune/run.json",
                "FINETUNE_POD_NAME": "quick-1",
                "FINETUNE_NODE_NAME": "node-a",
                "FINETUNE_TERMINATION_LOG": "/dev/termination-log",
                "JOB_COMPLETION_INDEX": "1",
                "MASTER_ADDR": "quick-0.quick",
                "MASTER_PORT": "29500",
                "KUBEFLOW_TRAINER_SERVER_URL": "https://operator/status",
                "KUBEFLOW_TRAINER_SERVER_CA_CERT": "/ca",
                "KUBEFLOW_TRAINER_SERVER_TOKEN": "/token",
            },
            Settings(
                run_config=Path("/etc/finetune/run.json"),
                node_rank=1,
                master_address="quick-0.quick",
                master_port=29500,
                pod_name="quick-1",
                node_name="node-a",
                termination_log=Path("/dev/termination-log"),
                metrics_port=9400,
                progress_server=ProgressServer("https://operator/status", Path("/token"), Path("/ca")),
            ),
            id="a pod",
        ),
    ],
)
def test_settings(arguments: list[str], environment: dict[str, str], settings: Settings) -> None:
    assert read_settings(arguments, environment) == settings


def test_caches_leave_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    """As in a pod with a read-only root file system; a home that works, or caches that are named, stay."""
    assert cache_environment({"HOME": str(tmp_path)}, tmp_path) == {}
    assert cache_environment({"HOME": "/nonexistent", "HF_HOME": "/cache"}, tmp_path) == {}
    assert cache_environment({"HOME": "/nonexistent"}, tmp_path) == {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "huggingface"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
