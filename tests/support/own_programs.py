"""Programs that are not ours: the example's manifest, and what its pods are told, on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_api.manifest import read_yaml
from finetune_operator.core.job import read_job
from finetune_operator.core.plan import Plan, Runtime, Runtimes, freeze, plan
from finetune_operator.core.pod import Endpoint, pod_template
from support.launcher import Launcher
from support.progress_server import ProgressServerForTests

EXAMPLE = Path(__file__).parents[2] / "examples" / "own-program"
UID = "0a1b2c3d-0000-4000-8000-000000000001"


def example(name: str = "own-program", **changes: dict[str, Any]) -> dict[str, Any]:
    """The example's FineTuneJob as `name`, with fields of whole sections replaced."""
    manifest: dict[str, Any] = read_yaml((EXAMPLE / "manifest.yaml").read_text(encoding="utf-8"))
    manifest["metadata"]["name"] = name
    for section, fields in changes.items():
        manifest["spec"][section] = manifest["spec"].get(section, {}) | fields
    return manifest


def planned(manifest: dict[str, Any]) -> Plan:
    metadata = {"namespace": "default", "uid": UID, "generation": 1, "resourceVersion": "1"}
    job = read_job({**manifest, "metadata": {**manifest["metadata"], **metadata}})
    made = plan(job, 1, Runtimes(default=Runtime("finetune", "default", {"image": "trainer:1"})))
    assert isinstance(made, Plan), made
    return made


class LocalPods:
    """The pods of a plan as processes of this machine; what names a path or a host in a pod names one here."""

    def __init__(self, folder: Path, manifest: dict[str, Any], server: ProgressServerForTests) -> None:
        self.folder, self.plan, self.server = folder, planned(manifest), server
        self.output = folder / "output"
        (folder / "run.json").write_text(freeze(self.plan)["run.json"])

    def start(self, command: Callable[[list[str]], list[str]]) -> list[Launcher]:
        """All pods, with `command` made of the container's."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = str(found.getsockname()[1])
        return [self._pod(rank, port, command) for rank in range(self.plan.nodes)]

    def _pod(self, rank: int, port: str, command: Callable[[list[str]], list[str]]) -> Launcher:
        (container,) = pod_template(self.plan, {}, Endpoint("https://server", "ca"))["spec"]["containers"]
        values = {entry["name"]: self._value(entry, rank) for entry in container["env"]}
        own = {name: self._here(value, port) for name, value in values.items()} | {
            "FINETUNE_RUN_CONFIG": str(self.folder / "run.json"),
            "KUBEFLOW_TRAINER_SERVER_URL": self.server.url,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(self.server.ca_file),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.server.token_file),
            "OMP_NUM_THREADS": "1",
        }
        given = container["command"]
        program = command([*given[given.index("--") + 1 :], *container.get("args", [])])
        return Launcher(self.folder / f"pod-{rank}", *program, **own)

    def _value(self, entry: dict[str, Any], rank: int) -> str:
        """What the kubelet makes of a variable."""
        if "value" in entry:
            return str(entry["value"]).replace("$(FINETUNE_NODE_RANK)", str(rank))
        path = entry["valueFrom"]["fieldRef"]["fieldPath"]
        return str(rank) if "job-completion-index" in path else os.uname().nodename

    def _here(self, value: str, port: str) -> str:
        for rank in range(self.plan.nodes):
            host = f"{self.plan.name}-{rank}.{self.plan.service}"
            value = value.replace(f"{host}:29500", f"127.0.0.1:{int(port) + rank}").replace(host, "127.0.0.1")
        value = value.replace("29500", port).replace(self.plan.config.folder, str(self.output))
        return value.replace("/scratch", str(self.folder))
