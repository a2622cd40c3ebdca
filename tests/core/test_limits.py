"""Limits: a job gets what the platform allows; the rest is refused by field, value, limit and runtime."""

from typing import Any

import pytest

from finetune_api.progress import FailureClass
from finetune_operator.core.limits import fits, is_below
from finetune_operator.core.plan import Plan, Refused, Runtime, Runtimes, plan
from support.builders import AJob, a_job

PLATFORM = "finetune"
IMAGE = {"image": "ghcr.io/platform/trainer:1"}
OWN_IMAGE = {"trainer": {"image": "ghcr.io/team/trainer:7"}}
EIGHT_GPUS = {"resources": {"gpusPerNode": 8}}
POD = "spec.podTemplate.spec"


def default(**limits: Any) -> Runtime:
    return Runtime(PLATFORM, "default", {**IMAGE, "limits": limits})


def named(namespace: str = PLATFORM, spec: dict[str, Any] | None = None, **limits: Any) -> Runtime:
    return Runtime(namespace, "h200", {**(spec or {}), "limits": limits})


def built_on(*layers: Runtime) -> Runtimes:
    first, *rest = layers
    return Runtimes(default=first, named=rest[0] if rest else None, operator_namespace=PLATFORM)


def with_pod(**spec: Any) -> dict[str, Any]:
    return {"podTemplate": {"spec": spec}}


def with_account(name: str) -> dict[str, Any]:
    return with_pod(serviceAccountName=name)


def with_folder(path: str) -> dict[str, Any]:
    return with_pod(volumes=[{"name": "data", "hostPath": {"path": path}}])


def messages(job: AJob, runtimes: Runtimes) -> str:
    """What a job is refused for; empty if it is not."""
    result = plan(job.job, 1, runtimes)
    if isinstance(result, Plan):
        return ""
    assert isinstance(result, Refused)
    assert (result.failure.class_, result.failure.reason) == (FailureClass.CONFIG_ERROR, "LimitExceeded")
    assert not result.waits
    assert result.failure.hint
    return result.failure.message


ALLOWED: list[Any] = [
    pytest.param({}, built_on(default()), id="no limits"),
    pytest.param(
        {**EIGHT_GPUS, "elastic": {"minNodes": 1}}, built_on(default(maxGpus=8)), id="as many GPUs as allowed"
    ),
    pytest.param({"resources": {"nodes": 4}}, built_on(default(maxNodes=4, maxGpus=0)), id="as many nodes as allowed"),
    pytest.param({}, built_on(default(images=[])), id="the image of the platform's own runtime"),
    pytest.param(OWN_IMAGE, built_on(default(images=["quay.io/*", "ghcr.io/team/*:7"])), id="an image that fits"),
    pytest.param(OWN_IMAGE, built_on(default()), id="any image where images is not set"),
    pytest.param(
        with_pod(initContainers=[{"name": "unpack", "image": "busybox:1"}]),
        built_on(default(images=["ghcr.io/*", "busybox:*"])),
        id="an image of an init container that fits",
    ),
    pytest.param(
        with_pod(containers=[{"name": "proxy", "image": "proxy:1"}]),
        built_on(
            default(images=[]),
            named(spec=with_pod(containers=[{"name": "proxy", "image": "proxy:1"}])),
        ),
        id="an image of the platform's podTemplate",
    ),
    pytest.param(with_account("default"), built_on(default()), id="the account that every pod has"),
    pytest.param(
        with_account("reader"), built_on(default(serviceAccountNames=["reader"])), id="an account in the list"
    ),
    pytest.param(
        with_account("reader"),
        built_on(default(), named(serviceAccountNames=["reader"])),
        id="an account that the named runtime allows and default says nothing of",
    ),
    pytest.param(with_folder("/data"), built_on(default(hostPaths=["/data"])), id="a folder of the node"),
    pytest.param(with_folder("/data/a//b/"), built_on(default(hostPaths=["/data/"])), id="below a folder of the node"),
    pytest.param(
        {},
        built_on(default(), named(spec={"volumes": [{"name": "d", "mountPath": "/d", "hostPath": "/mnt"}]})),
        id="a folder that the platform's own runtime mounts",
    ),
    pytest.param(
        EIGHT_GPUS,
        built_on(default(), named("team-a", maxGpus=1)),
        id="limits of a runtime in the job's namespace do not count",
    ),
    pytest.param(
        with_pod(containers=[{"name": "trainer", "resources": {"limits": {"cpu": "4", "rdma/hca": 1}}}]),
        built_on(default(maxGpus=8)),
        id="other resources than GPUs in a podTemplate",
    ),
]


@pytest.mark.parametrize(("spec", "runtimes"), ALLOWED)
def test_what_is_within_the_limits_is_planned(spec: dict[str, Any], runtimes: Runtimes) -> None:
    assert messages(a_job().with_spec(**spec), runtimes) == ""


OF_DEFAULT = "of FineTuneRuntime finetune/default"
OF_NAMED = "of FineTuneRuntime finetune/h200"
REFUSED: list[Any] = [
    pytest.param(
        {"resources": {"nodes": 5}},
        built_on(default(maxNodes=4)),
        [f"spec.resources.nodes: 5 is more than 4, limits.maxNodes {OF_DEFAULT}"],
        id="nodes",
    ),
    pytest.param(
        {"resources": {"nodes": 3, "gpusPerNode": 8}},
        built_on(default(maxGpus=16)),
        [
            "spec.resources.gpusPerNode: 24 GPUs (spec.resources.nodes, 3, times spec.resources.gpusPerNode, 8) "
            f"are more than 16, limits.maxGpus {OF_DEFAULT}"
        ],
        id="GPUs over all nodes",
    ),
    pytest.param(
        {**EIGHT_GPUS, "elastic": {"minNodes": 1, "maxNodes": 4}},
        built_on(default(maxGpus=16, maxNodes=2)),
        [
            f"spec.elastic.maxNodes: 4 is more than 2, limits.maxNodes {OF_DEFAULT}",
            f"32 GPUs (spec.elastic.maxNodes, 4, times spec.resources.gpusPerNode, 8) are more than 16, "
            f"limits.maxGpus {OF_DEFAULT}",
        ],
        id="what an elastic job may grow to",
    ),
    pytest.param(
        {},
        built_on(default(maxGpus=4), named("team-a", spec=EIGHT_GPUS)),
        [f"are more than 4, limits.maxGpus {OF_DEFAULT}"],
        id="GPUs that a runtime in the job's namespace asks for",
    ),
    pytest.param(
        EIGHT_GPUS,
        built_on(default(maxGpus=16), named(maxGpus=4)),
        [f"are more than 4, limits.maxGpus {OF_NAMED}"],
        id="the named runtime's limit is nearer",
    ),
    pytest.param(
        EIGHT_GPUS,
        built_on(default(maxGpus=4), named(maxGpus=16)),
        [f"are more than 4, limits.maxGpus {OF_DEFAULT}"],
        id="a named runtime does not lift the limits of default",
    ),
    pytest.param(
        with_pod(containers=[{"name": "trainer", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]),
        built_on(default(maxGpus=4)),
        [f"{POD}.containers[0].resources.limits[nvidia.com/gpu]: 8 is not counted by limits.maxGpus {OF_DEFAULT}, 4"],
        id="GPUs past gpusPerNode",
    ),
    pytest.param(
        with_pod(initContainers=[{"name": "warm", "resources": {"requests": {"nvidia.com/mig-1g.10gb": 1}}}]),
        built_on(default(maxGpus=4)),
        [f"{POD}.initContainers[0].resources.requests[nvidia.com/mig-1g.10gb]: 1 is not counted"],
        id="parts of GPUs past gpusPerNode",
    ),
    pytest.param(
        {
            "resources": {"gpuResource": "example.com/card"},
            **with_pod(containers=[{"name": "trainer", "resources": {"limits": {"example.com/card": 2}}}]),
        },
        built_on(default(maxGpus=4)),
        [f"{POD}.containers[0].resources.limits[example.com/card]: 2 is not counted"],
        id="GPUs of another name past gpusPerNode",
    ),
    pytest.param(
        with_pod(
            resourceClaims=[{"name": "gpus", "resourceClaimTemplateName": "eight"}],
            containers=[{"name": "trainer", "resources": {"claims": [{"name": "gpus"}]}}],
        ),
        built_on(default(maxGpus=4)),
        [f"{POD}.resourceClaims: a claim of devices is not counted by limits.maxGpus {OF_DEFAULT}, 4"],
        id="GPUs by a claim",
    ),
    pytest.param(
        OWN_IMAGE,
        built_on(default(images=["quay.io/*", "ghcr.io/platform/*"])),
        [
            "spec.trainer.image: ghcr.io/team/trainer:7 fits none of quay.io/*, ghcr.io/platform/*, "
            f"limits.images {OF_DEFAULT}"
        ],
        id="an image that fits nothing",
    ),
    pytest.param(
        OWN_IMAGE,
        built_on(default(images=["ghcr.io/team"])),
        ["fits none of ghcr.io/team,"],
        id="the start of an image is not the image",
    ),
    pytest.param(
        OWN_IMAGE,
        built_on(default(images=["ghcr.io/*"]), named(images=["quay.io/*"])),
        [f"fits none of quay.io/*, limits.images {OF_NAMED}"],
        id="an image that one of two runtimes allows",
    ),
    pytest.param(
        with_pod(containers=[{"name": "a", "image": "ghcr.io/x:1"}, {"name": "b", "image": "evil:1"}]),
        built_on(default(images=["ghcr.io/*"])),
        [f"{POD}.containers[1].image: evil:1 fits none of ghcr.io/*, limits.images {OF_DEFAULT}"],
        id="an image beside the trainer",
    ),
    pytest.param(
        with_pod(volumes=[{"name": "model", "image": {"reference": "evil:1"}}]),
        built_on(default(images=["ghcr.io/*"])),
        [f"{POD}.volumes[0].image.reference: evil:1 fits none"],
        id="an image as a volume",
    ),
    pytest.param(
        {},
        built_on(default(images=["ghcr.io/*"]), named("team-a", spec={"image": "evil:1"})),
        ["FineTuneRuntime team-a/h200: spec.image: evil:1 fits none"],
        id="an image of a runtime in the job's namespace",
    ),
    pytest.param(
        with_account("admin"),
        built_on(default()),
        [
            f"{POD}.serviceAccountName: admin is not `default`, and limits.serviceAccountNames is not set by "
            "FineTuneRuntime finetune/default"
        ],
        id="an account where nothing is said of accounts",
    ),
    pytest.param(
        with_account("admin"),
        Runtimes(named=Runtime("team-a", "default", {**IMAGE, "limits": {"serviceAccountNames": ["admin"]}})),
        ["and no FineTuneRuntime of the platform allows it by limits.serviceAccountNames"],
        id="an account that only a runtime in the job's namespace allows",
    ),
    pytest.param(
        with_account("admin"),
        built_on(default(serviceAccountNames=["reader", "writer"])),
        [f"{POD}.serviceAccountName: admin is none of reader, writer, limits.serviceAccountNames {OF_DEFAULT}"],
        id="an account that is not in the list",
    ),
    pytest.param(
        with_pod(serviceAccount="admin"),
        built_on(default(serviceAccountNames=[])),
        [f"{POD}.serviceAccount: admin is none of (none), limits.serviceAccountNames {OF_DEFAULT}"],
        id="an account by its older name",
    ),
    pytest.param(
        {},
        built_on(default(), named("team-a", spec=with_account("admin"))),
        ["FineTuneRuntime team-a/h200: spec.podTemplate.spec.serviceAccountName: admin is not `default`"],
        id="an account of a runtime in the job's namespace",
    ),
    pytest.param(
        with_folder("/etc"),
        built_on(default()),
        [
            f"{POD}.volumes[0].hostPath.path: /etc is a folder of the node, and limits.hostPaths is not set by "
            "FineTuneRuntime finetune/default"
        ],
        id="a folder where nothing is said of folders",
    ),
    pytest.param(
        with_folder("/database"),
        built_on(default(hostPaths=["/data", "/mnt"])),
        [f"{POD}.volumes[0].hostPath.path: /database is not below /data, /mnt, limits.hostPaths {OF_DEFAULT}"],
        id="a folder whose name starts with an allowed one",
    ),
    pytest.param(
        with_folder("/data/../etc"),
        built_on(default(hostPaths=["/data"])),
        ["/data/../etc is not below"],
        id="a way out",
    ),
    pytest.param(
        with_folder("/data/x"),
        built_on(default(hostPaths=["/data"]), named(hostPaths=["/data/y"])),
        [f"/data/x is not below /data/y, limits.hostPaths {OF_NAMED}"],
        id="a folder that one of two runtimes allows",
    ),
    pytest.param(
        {},
        built_on(default(), named("team-a", spec={"volumes": [{"name": "d", "mountPath": "/d", "hostPath": "/etc"}]})),
        ["FineTuneRuntime team-a/h200: spec.volumes[0].hostPath: /etc is a folder of the node"],
        id="a folder that a runtime in the job's namespace mounts",
    ),
]


@pytest.mark.parametrize(("spec", "runtimes", "expected"), REFUSED)
def test_what_is_beyond_a_limit_is_refused(spec: dict[str, Any], runtimes: Runtimes, expected: list[str]) -> None:
    found = messages(a_job().with_spec(**spec), runtimes)
    assert [text for text in expected if text not in found] == [], found


def test_everything_beyond_a_limit_is_told_at_once() -> None:
    job = a_job().with_spec(**OWN_IMAGE, **EIGHT_GPUS, **with_account("admin"))
    found = messages(job, built_on(default(maxGpus=1, images=["quay.io/*"])))
    assert [word in found for word in ("maxGpus", "limits.images", "serviceAccountNames")] == [True] * 3


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        pytest.param("a:1", "a:1", True, id="the same"),
        pytest.param("a:*", "a:", True, id="any text may be empty"),
        pytest.param("*", "ghcr.io/a/b@sha256:0", True, id="anything"),
        pytest.param("ghcr.io/*/b:*", "ghcr.io/a/x/b:1", True, id="over slashes"),
        pytest.param("ghcr.io/*", "evil.io/ghcr.io/a", False, id="from the start"),
        pytest.param("*/a:1", "x/a:12", False, id="to the end"),
        pytest.param("a.b", "axb", False, id="a dot is a dot"),
        pytest.param("a[1]?", "a1b", False, id="nothing but * is special"),
    ],
)
def test_patterns(pattern: str, text: str, expected: bool) -> None:
    assert fits(pattern, text) is expected


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        pytest.param("/data", "/data", True, id="itself"),
        pytest.param("/data/./a", "/data/", True, id="below"),
        pytest.param("/anything", "/", True, id="all"),
        pytest.param("/dat", "/data", False, id="shorter"),
        pytest.param("/data2", "/data", False, id="a longer name"),
        pytest.param("/data/..", "/data", False, id="up"),
        pytest.param("data", "/", False, id="not absolute"),
        pytest.param("", "/", False, id="nothing"),
    ],
)
def test_paths_are_compared_by_whole_names(path: str, folder: str, expected: bool) -> None:
    assert is_below(path, folder) is expected
