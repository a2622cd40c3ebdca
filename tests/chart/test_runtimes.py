"""The runtimes that the chart ships: valid, planned with a job, and the pods that come of each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from finetune_api.runtime import FineTuneRuntime
from finetune_api.schema import runtime_crd
from finetune_operator.core.manifests import manifests
from finetune_operator.core.plan import Runtime, Runtimes
from support.builders import ENDPOINT, AJob, a_job
from support.cluster.access import OPERATOR_NAMESPACE
from support.cluster.process import CommandFailed

from .conftest import Object, Render

pytestmark = pytest.mark.cluster

SHIPPED = ("cpu", "default", "nvidia-b200", "nvidia-h100", "nvidia-h200", "tpu-v5e")
OF_GPUS = ("nvidia-b200", "nvidia-h100", "nvidia-h200")
PAGE = Path(__file__).parents[2] / "docs" / "runtimes.md"
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
NODE_OF_EIGHT = {"cpu": "80", "memory": "1000Gi", "nvidia.com/gpu": "8"}


def shipped(render: Render, *settings: str) -> dict[str, Object]:
    """The rendered FineTuneRuntimes by name."""
    return {item["metadata"]["name"]: item for item in render(*settings) if item["kind"] == "FineTuneRuntime"}


def pod_of(runtimes: dict[str, Object], name: str, job: AJob | None = None) -> Object:
    """The podTemplate's spec of a job that names the runtime `name`."""
    default, named = (Runtime(OPERATOR_NAMESPACE, one, runtimes[one]["spec"]) for one in ("default", name))
    asking = (job or a_job()).with_spec(runtimeRef={"name": name})
    children = manifests(asking.plan(Runtimes(default, named, OPERATOR_NAMESPACE)), ENDPOINT)
    (child,) = (item for item in children if item["kind"] == "Job")
    pod: Object = child["spec"]["template"]["spec"]
    return pod


def trainer_of(pod: Object) -> Object:
    (container,) = (item for item in pod["containers"] if item["name"] == "trainer")
    return container


@pytest.mark.parametrize(
    "rdma", [pytest.param((), id="as shipped"), pytest.param(("rdma.resource=rdma/hca",), id="RDMA")]
)
def test_every_runtime_is_valid_for_us_and_for_the_api_server(render: Render, rdma: tuple[str, ...]) -> None:
    settings = ("trainer.image.repository=registry.example/trainer", "trainer.image.tag=1.2.3", *rdma)
    schema = runtime_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    runtimes = shipped(render, *settings)
    images = {}
    for name, runtime in runtimes.items():
        Draft4Validator(schema).validate(runtime)
        images[name] = FineTuneRuntime.model_validate({**runtime, "metadata": {"name": name}}).spec.image
    assert images == dict.fromkeys(SHIPPED, "registry.example/trainer:1.2.3")


@pytest.mark.parametrize(
    ("name", "amounts", "selector", "tolerations"),
    [
        pytest.param("default", {}, None, None, id="default"),
        pytest.param("cpu", {}, None, None, id="cpu"),
        *(
            pytest.param(name, NODE_OF_EIGHT, {"nvidia.com/gpu.product": product}, [GPU_TOLERATION], id=name)
            for name, product in {
                "nvidia-b200": "NVIDIA-B200",
                "nvidia-h100": "NVIDIA-H100-80GB-HBM3",
                "nvidia-h200": "NVIDIA-H200",
            }.items()
        ),
        pytest.param(
            "tpu-v5e",
            {"cpu": "200", "memory": "320Gi", "google.com/tpu": "8"},
            {
                "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                "cloud.google.com/gke-tpu-topology": "2x4",
            },
            [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}],
            id="tpu-v5e",
        ),
    ],
)
def test_pods_ask_for_the_runtimes_hardware(
    render: Render, name: str, amounts: dict[str, str], selector: dict[str, str] | None, tolerations: list[Any] | None
) -> None:
    pod = pod_of(shipped(render), name)
    resources = trainer_of(pod)["resources"]
    assert (resources.get("limits", {}), pod.get("nodeSelector"), pod.get("tolerations")) == (
        amounts,
        selector,
        tolerations,
    )
    assert resources.get("requests", {}) == amounts


@pytest.mark.parametrize("name", OF_GPUS)
def test_pods_with_gpus_have_shared_memory_and_nccl_settings(render: Render, name: str) -> None:
    pod = pod_of(shipped(render), name)
    memory = [volume["emptyDir"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    assert memory == [{"medium": "Memory", "sizeLimit": "64Gi"}]
    variables = {variable["name"]: variable.get("value") for variable in trainer_of(pod)["env"]}
    assert {key: variables[key] for key in variables if key.startswith("NCCL")} == {
        "NCCL_DEBUG": "WARN",
        "NCCL_SOCKET_IFNAME": "eth0",
    }


def test_nodes_of_one_nvlink_domain_are_preferred(render: Render) -> None:
    pod = pod_of(shipped(render), "nvidia-b200", a_job().with_nodes(2))
    (preferred,) = pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["podAffinityTerm"]["topologyKey"] == "nvidia.com/gpu.clique"


def test_without_rdma_every_pod_fits_pod_security_restricted(render: Render) -> None:
    runtimes = shipped(render)
    for name in SHIPPED:
        pod = pod_of(runtimes, name)
        assert [pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")] == [None] * 3
        assert trainer_of(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_rdma_adds_its_resource_and_one_capability_to_gpu_runtimes_only(render: Render) -> None:
    runtimes = shipped(render, "rdma.resource=rdma/ib", "rdma.amount=8")
    found = {}
    for name in SHIPPED:
        container = trainer_of(pod_of(runtimes, name))
        found[name] = (container["resources"].get("limits", {}).get("rdma/ib"), container["securityContext"])
    plain = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    locking = {**plain, "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}
    assert found == {name: (8, locking) if name in OF_GPUS else (None, plain) for name in SHIPPED}


def test_rdma_leaves_what_a_runtime_says_of_its_containers(render: Render) -> None:
    place = "runtimes.nvidia-h200.podTemplate.spec.containers"
    runtimes = shipped(
        render,
        "rdma.resource=rdma/ib",
        f"{place}[0].name=proxy",
        f"{place}[0].image=proxy:1",
        f"{place}[1].name=trainer",
        f"{place}[1].workingDir=/tmp",
        f"{place}[1].securityContext.capabilities.add={{SYS_NICE}}",
    )
    assert runtimes["nvidia-h200"]["spec"]["podTemplate"]["spec"]["containers"] == [
        {"name": "proxy", "image": "proxy:1"},
        {
            "name": "trainer",
            "workingDir": "/tmp",
            "resources": {"requests": {"rdma/ib": 1}, "limits": {"rdma/ib": 1}},
            "securityContext": {"capabilities": {"add": ["SYS_NICE", "IPC_LOCK"]}},
        },
    ]


def test_a_runtime_can_be_left_out_or_changed(render: Render) -> None:
    runtimes = shipped(render, "runtimes.tpu-v5e=null", "runtimes.nvidia-b200.scheduling=null")
    assert set(runtimes) == set(SHIPPED) - {"tpu-v5e"}
    assert "scheduling" not in runtimes["nvidia-b200"]["spec"]


def test_a_wrong_rdma_resource_is_refused(render: Render) -> None:
    with pytest.raises(CommandFailed, match="rdma"):
        render("rdma.resource=hca")


def test_the_page_tells_of_every_runtime_and_whether_it_was_run() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| (run|rendered, not run)[^|]*\|$", PAGE.read_text(), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(SHIPPED)
    assert {name for name, state in rows if state == "run"} == {"default", "cpu"}
