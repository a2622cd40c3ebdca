"""A real Prometheus scrapes the operator and rank 0 of a running job."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.access import OPERATOR_NAMESPACE, Access
from support.example_jobs import quickstart
from support.live import LiveJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

OPERATOR_METRICS = (
    "finetune_jobs",
    "finetune_operator_reconcile_duration_seconds_count",
    "finetune_operator_api_requests_total",
    "finetune_operator_workqueue_depth",
    "finetune_operator_build_info",
)
TRAINER_METRICS = (
    "finetune_trainer_loss",
    "finetune_trainer_learning_rate",
    "finetune_trainer_samples_total",
    "finetune_trainer_tokens_total",
    "finetune_trainer_step",
    "finetune_trainer_epoch",
    "finetune_trainer_eta_seconds",
)


@contextmanager
def forwarded(cluster: Access, namespace: str, target: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to `port` of a pod or service."""
    command = [str(cluster.program("kubectl")), f"--kubeconfig={cluster.kubeconfig}", "port-forward"]
    command += [f"--namespace={namespace}", target, f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, line
            yield int(found[1])
        finally:
            process.terminate()


@contextmanager
def prometheus(folder: Path, targets: dict[str, int]) -> Iterator[str]:
    """A Prometheus that scrapes local ports, one job a target; yields its address."""
    program = shutil.which("prometheus")
    assert program, "Debian's package prometheus is not installed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    scrapes = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in targets.items()
    ]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={address}", "--log.level=error"]
    with subprocess.Popen(command) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


def query(address: str, expression: str) -> list[dict[str, Any]]:
    url = f"{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return list(json.load(answer)["data"]["result"])
    except OSError:
        return []


def await_series(address: str, names: tuple[str, ...], seconds: float) -> set[str]:
    """Names that have a series, as soon as all have one."""
    deadline = time.monotonic() + seconds
    while True:
        found = {name for name in names if query(address, name)}
        if found == set(names) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def test_prometheus_scrapes_the_operator_and_rank_0(installed_operator: Access, namespace: str, tmp_path: Path) -> None:
    installed_operator.create_claim(namespace, "finetune")
    manifest = quickstart("measured", training={"numTrainEpochs": 50})
    manifest["metadata"]["namespace"] = namespace
    installed_operator.apply(manifest)
    job = LiveJob(installed_operator, namespace, "measured")
    job.wait(lambda status: bool(status.progress and status.progress.step), 240, "the first steps")
    first = next(pod["metadata"]["name"] for pod in job.pods() if "-0-" in pod["metadata"]["name"])
    with ExitStack() as stack:
        operator_port = stack.enter_context(
            forwarded(installed_operator, OPERATOR_NAMESPACE, "deployment/finetune-operator", 8080)
        )
        trainer_port = stack.enter_context(forwarded(installed_operator, namespace, f"pod/{first}", 9400))
        address = stack.enter_context(prometheus(tmp_path, {"operator": operator_port, "trainer": trainer_port}))
        wanted = OPERATOR_METRICS + TRAINER_METRICS
        assert await_series(address, wanted, 40) == set(wanted)
        (running,) = query(address, f'finetune_jobs{{namespace="{namespace}",phase="Running"}}')
        assert running["value"][1] == "1"
        (loss,) = query(address, "finetune_trainer_loss")
        assert 0 < float(loss["value"][1]) < 10
        (build,) = query(address, "finetune_operator_build_info")
        assert {"version", "kopf", "python"} <= set(build["metric"])
