"""`fetch_manifests`: the Job that fills the cache may reach whatever training could, and holds no accelerator."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.placement import PodTemplate
from finetune_operator.core.manifests import fetch_manifests, manifests, pod_failure_rules
from finetune_operator.core.plan import Plan, Runtime, Runtimes
from support.builders import ENDPOINT, UID, AJob, a_job

NAME = "reviews-0a1b2-r1a1"
LABELS = {
    "finetune.dev/job": "reviews",
    "finetune.dev/run": "1",
    "finetune.dev/attempt": "1",
    "finetune.dev/role": "fetch",
    "app.kubernetes.io/managed-by": "finetune-operator",
}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"

Part = dict[str, Any]


def a_cached_job() -> AJob:
    """Two nodes with GPUs, of which each has a model to download, data on a volume and an output on another."""
    return a_job().with_spec(
        cache={"uri": "pvc://cache/downloads"},
        resources={"nodes": 2, "gpusPerNode": 8, "cpu": 64, "memory": "512Gi", "sharedMemory": "64Gi"},
    )


def fetch_job(plan: Plan) -> Part:
    return fetch_manifests(plan, ENDPOINT)[1]


def pod_of(job: AJob, pod: Part | None = None) -> Part:
    """Spec of the pod that downloads for a job whose podTemplate is `pod`."""
    plan = replace(job.plan(), pod_template=PodTemplate(spec=pod or {}))
    spec: Part = fetch_job(plan)["spec"]["template"]["spec"]
    return spec


def container_of(spec: Part) -> Part:
    (found,) = [container for container in spec["containers"] if container["name"] == "trainer"]
    return found


def test_the_job_is_one_pod_that_no_queue_holds_back() -> None:
    scheduling = {"queueName": "team-a", "topology": {"required": "rack"}}
    job = fetch_job(a_cached_job().with_spec(scheduling=scheduling).plan())
    template = job["spec"].pop("template")
    owner = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "name": "reviews",
        "uid": UID,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    assert job == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{NAME}-fetch",
            "namespace": "team-a",
            "labels": LABELS,
            "ownerReferences": [owner],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": pod_failure_rules()},
        },
    }
    assert template["metadata"] == {"labels": LABELS, "annotations": {}}


def test_it_reads_the_config_map_of_its_attempt() -> None:
    plan = a_cached_job().plan()
    assert fetch_manifests(plan, ENDPOINT)[0] == manifests(plan, ENDPOINT)[0]


def test_the_pod() -> None:
    spec = pod_of(a_cached_job())
    training = manifests(a_cached_job().plan(), ENDPOINT)[-1]["spec"]["template"]["spec"]
    environment = {**environment_of(training), "MASTER_ADDR": "127.0.0.1"}
    assert environment_of(spec) == environment
    del spec["containers"][0]["env"]
    token = {"audience": "finetune.dev/progress", "expirationSeconds": 3600, "path": "token"}
    assert spec == {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": training["securityContext"],
        "containers": [
            {
                "name": "trainer",
                "image": "trainer:1",
                "command": ["python", "-m", "finetune_trainer.fetch"],
                "resources": {
                    "requests": {"cpu": "250m", "memory": "512Mi"},
                    "limits": {"cpu": "4", "memory": "4Gi"},
                },
                "securityContext": training["containers"][0]["securityContext"],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/finetune", "readOnly": True},
                    {"name": "token", "mountPath": "/var/run/secrets/finetune.dev", "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "claim-0", "mountPath": "/volumes/cache", "readOnly": False},
                ],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": NAME}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "claim-0", "persistentVolumeClaim": {"claimName": "cache"}},
        ],
    }


def environment_of(spec: Part) -> Part:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container_of(spec)["env"]}


def test_secrets_and_the_users_environment_reach_it() -> None:
    job = a_cached_job().with_spec(
        model={"secretRef": {"name": "hub"}}, trainer={"env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]}
    )
    environment = environment_of(pod_of(job))
    assert environment["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN", "optional": True}}
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"


def test_volumes_of_runtimes_and_of_the_pod_template_reach_it() -> None:
    runtimes = Runtimes(
        default=Runtime(
            "finetune",
            "default",
            {"image": "trainer:1", "volumes": [{"name": "ca", "mountPath": "/etc/ca", "configMapName": "ca"}]},
        )
    )
    template = {
        "volumes": [{"name": "netrc", "secret": {"secretName": "netrc"}}],
        "containers": [{"name": "trainer", "volumeMounts": [{"name": "netrc", "mountPath": "/scratch/.netrc"}]}],
    }
    plan = a_cached_job().with_spec(podTemplate={"spec": template}).plan(runtimes)
    spec = fetch_job(plan)["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(spec)["volumeMounts"]}
    assert [volume["name"] for volume in spec["volumes"]] == [
        "config", "token", "tmp", "scratch", "claim-0", "volume-ca", "netrc",
    ]  # fmt: skip
    assert (mounts["volume-ca"], mounts["netrc"]) == ("/etc/ca", "/scratch/.netrc")


def test_claims_whose_names_begin_alike_are_told_apart() -> None:
    job = a_cached_job().with_spec(cache={"uri": "pvc://data-cache/x"})
    assert [volume["name"] for volume in pod_of(job)["volumes"] if "persistentVolumeClaim" in volume] == ["claim-1"]
    assert {"name": "claim-1", "persistentVolumeClaim": {"claimName": "data-cache"}} in pod_of(job)["volumes"]


@pytest.mark.parametrize(
    ("trainer", "image"),
    [
        pytest.param({}, "trainer:1", id="our trainer"),
        pytest.param({"image": "ours:2"}, "ours:2", id="our trainer in another image"),
        pytest.param({"image": "program:1", "command": ["train"]}, "trainer:1", id="a program of the user's"),
        pytest.param(
            {"image": "program:1", "args": ["--x"], "framework": "jax"}, "trainer:1", id="its own entry point"
        ),
    ],
)
def test_our_trainer_downloads_whatever_trains(trainer: Part, image: str) -> None:
    container = container_of(pod_of(a_cached_job().with_spec(trainer=trainer)))
    assert (container["image"], container["command"], container.get("args")) == (
        image,
        ["python", "-m", "finetune_trainer.fetch"],
        None,
    )


def test_what_the_training_container_is_told_of_its_program_is_left_out() -> None:
    probe = {"httpGet": {"path": "/healthz", "port": 9400}}
    training = {
        "name": "trainer",
        "args": ["--x"],
        "ports": [{"containerPort": 9999}],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "startupProbe": probe,
        "lifecycle": {"preStop": {"exec": {"command": ["nvidia-smi"]}}},
        "resources": {"claims": [{"name": "gpus"}]},
        "imagePullPolicy": "Always",
    }
    plain = container_of(pod_of(a_cached_job()))
    assert container_of(pod_of(a_cached_job(), {"containers": [training]})) == plain | {"imagePullPolicy": "Always"}


def term(*expressions: Part) -> Part:
    return {"matchExpressions": list(expressions)}


def affinity(*terms: Part) -> Part:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


B200 = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-B200"]}
ZONE = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}
TAINT = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
DEVICE = {"limits": {"nvidia.com/gpu": 1}}


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        pytest.param({"tolerations": TAINT}, {"tolerations": TAINT}, id="tolerations"),
        pytest.param({"serviceAccountName": "a"}, {"serviceAccountName": "a"}, id="the service account"),
        pytest.param({"imagePullSecrets": [{"name": "a"}]}, {"imagePullSecrets": [{"name": "a"}]}, id="pull secrets"),
        pytest.param({"priorityClassName": "low"}, {"priorityClassName": "low"}, id="the priority"),
        pytest.param(
            {"nodeSelector": {"team": "a", "kubernetes.io/arch": "arm64", "nvidia.com/gpu.product": "NVIDIA-GB200"}},
            {"nodeSelector": {"team": "a", "kubernetes.io/arch": "arm64"}},
            id="labels of nodes, but for a GPU's",
        ),
        pytest.param({"nodeSelector": {"cloud.google.com/gke-tpu-topology": "2x4"}}, {}, id="labels of a TPU"),
        pytest.param({"nodeSelector": {"node.kubernetes.io/instance-type": "p6"}}, {}, id="a machine with GPUs"),
        pytest.param(affinity(term(ZONE)), affinity(term(ZONE)), id="a required zone"),
        pytest.param(affinity(term(B200, ZONE)), affinity(term(ZONE)), id="a required zone with GPUs"),
        pytest.param(affinity(term(B200), term(ZONE)), {}, id="a zone, or GPUs anywhere"),
        pytest.param(
            affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}),
            affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}),
            id="one node",
        ),
        pytest.param({"affinity": {"podAffinity": {REQUIRED: []}}}, {}, id="affinity to other pods"),
        pytest.param({"topologySpreadConstraints": [{"topologyKey": "rack"}]}, {}, id="spreading"),
        pytest.param({"resourceClaims": [{"name": "gpus"}]}, {}, id="claims of devices"),
        pytest.param({"runtimeClassName": "nvidia"}, {}, id="the container runtime of GPUs"),
        pytest.param({"runtimeClassName": "gvisor"}, {"runtimeClassName": "gvisor"}, id="another container runtime"),
        pytest.param({"terminationGracePeriodSeconds": 3600}, {}, id="time to save"),
        pytest.param(
            {"initContainers": [{"name": "proxy"}, {"name": "check", "resources": DEVICE}]},
            {"initContainers": [{"name": "proxy"}]},
            id="containers before it, unless they ask for a device",
        ),
    ],
)
def test_what_of_the_pod_template_counts_for_a_download(template: Part, kept: Part) -> None:
    assert pod_of(a_cached_job(), template) == {**pod_of(a_cached_job()), **kept}


def test_containers_beside_it_stay_unless_they_ask_for_a_device() -> None:
    beside = [
        {"name": "proxy", "resources": {"limits": {"memory": "1Gi"}}},
        {"name": "watch", "resources": DEVICE},
        {"name": "claim", "resources": {"claims": [{"name": "gpus"}]}},
    ]
    assert [one["name"] for one in pod_of(a_cached_job(), {"containers": beside})["containers"]] == ["trainer", "proxy"]


def test_it_has_the_runs_priority_and_stays_off_excluded_nodes() -> None:
    plan = a_cached_job().with_spec(scheduling={"priorityClassName": "high"}).plan()
    spec = fetch_job(replace(plan, excluded=("node-1",)))["spec"]["template"]["spec"]
    not_there = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-1"]}
    assert spec == {**pod_of(a_cached_job()), "priorityClassName": "high", **affinity(term(not_there))}


def test_two_calls_share_nothing() -> None:
    plan = a_cached_job().plan()
    first = fetch_job(plan)
    container_of(first["spec"]["template"]["spec"])["resources"]["limits"].clear()
    container_of(first["spec"]["template"]["spec"])["command"].clear()
    assert fetch_job(plan)["spec"]["template"]["spec"] == pod_of(a_cached_job())
