"""`manifests`: the children of one attempt, compared as whole objects with what a person would write."""

from dataclasses import replace
from typing import Any

import pytest
from kubernetes.client import models
from pydantic import BaseModel, ValidationError

from finetune_api.progress import CLASS_OF_EXIT_CODE, FailureClass
from finetune_operator.core.manifests import RULE_CLASSES, fetch_manifests, manifests, pod_failure_rules
from finetune_operator.core.plan import Runtime, Runtimes
from support.builders import ENDPOINT, RUNTIMES, UID, AJob, a_job

NAME = "reviews-0a1b2-r1a1"
SERVICE = "reviews-0a1b2-r1"
RUN_LABELS = {
    "finetune.dev/job": "reviews",
    "finetune.dev/run": "1",
    "app.kubernetes.io/managed-by": "finetune-operator",
}
ATTEMPT_LABELS = {**RUN_LABELS, "finetune.dev/attempt": "1"}
LABELS = {**ATTEMPT_LABELS, "finetune.dev/role": "train"}
COSCHEDULING = {"gang": "Coscheduling"}
KUBERNETES_TYPES: dict[str, type[BaseModel]] = {
    "ConfigMap": models.V1ConfigMap,
    "Service": models.V1Service,
    "Job": models.V1Job,
}
"""Of the official client; they are strict."""


def metadata(name: str, labels: dict[str, str]) -> dict[str, Any]:
    owner = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "name": "reviews",
        "uid": UID,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "namespace": "team-a", "labels": labels, "ownerReferences": [owner]}


def children(job: AJob, runtimes: Runtimes = RUNTIMES) -> dict[str, dict[str, Any]]:
    return {child["kind"]: child for child in manifests(job.plan(runtimes), ENDPOINT)}


def container(job: AJob) -> dict[str, Any]:
    (found,) = children(job)["Job"]["spec"]["template"]["spec"]["containers"]
    return found


def environment(job: AJob) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(job)["env"]}


@pytest.mark.parametrize(
    ("job", "kinds"),
    [
        pytest.param(a_job(), ["ConfigMap", "Job"], id="one node"),
        pytest.param(a_job().with_nodes(2), ["ConfigMap", "Service", "Job"], id="two nodes"),
        pytest.param(
            a_job().with_nodes(2).with_spec(scheduling=COSCHEDULING),
            ["ConfigMap", "Service", "PodGroup", "Job"],
            id="two nodes, coscheduled",
        ),
        pytest.param(a_job().with_spec(scheduling=COSCHEDULING), ["ConfigMap", "Job"], id="one node is no gang"),
    ],
)
def test_children_are_created_in_the_order_in_which_pods_need_them(job: AJob, kinds: list[str]) -> None:
    assert list(children(job)) == kinds


def test_every_child_has_our_labels_and_one_owner_and_nothing_of_the_users() -> None:
    job = a_job().with_nodes(2).with_spec(scheduling=COSCHEDULING)
    labelled = AJob({**job.manifest, "metadata": {**job.manifest["metadata"], "labels": {"argocd.argoproj.io/x": "y"}}})
    assert {kind: child["metadata"] for kind, child in children(labelled).items()} == {
        "ConfigMap": metadata(NAME, ATTEMPT_LABELS),
        "Service": metadata(SERVICE, RUN_LABELS),
        "PodGroup": metadata(NAME, ATTEMPT_LABELS),
        "Job": metadata(NAME, LABELS),
    }


def test_pods_have_our_labels_and_nothing_of_the_users() -> None:
    assert children(a_job())["Job"]["spec"]["template"]["metadata"] == {"labels": LABELS, "annotations": {}}


def test_a_restart_needs_no_other_service() -> None:
    """The Service is the run's: it finds the training pods of each attempt, whose names tell the attempts apart."""
    plan = a_job().with_nodes(2).plan()
    (first,), (second,) = (
        [child for child in manifests(plan.with_attempt(attempt), ENDPOINT) if child["kind"] == "Service"]
        for attempt in (1, 2)
    )
    assert first == second
    assert first == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(SERVICE, RUN_LABELS),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"finetune.dev/job": "reviews", "finetune.dev/run": "1", "finetune.dev/role": "train"},
            "ports": [{"name": "rendezvous", "port": 29500}],
        },
    }


def test_a_pod_group_wants_all_nodes_of_its_attempt() -> None:
    plan = a_job().with_nodes(4).with_spec(scheduling=COSCHEDULING).plan().with_attempt(2).with_nodes(3)
    (group,) = [child for child in manifests(plan, ENDPOINT) if child["kind"] == "PodGroup"]
    assert group == {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": metadata("reviews-0a1b2-r1a2", {**RUN_LABELS, "finetune.dev/attempt": "2"}),
        "spec": {"minMember": 3},
    }


def test_config_map_is_immutable_and_has_what_a_pod_reads() -> None:
    config = children(a_job())["ConfigMap"]
    assert config["immutable"] is True
    assert set(config["data"]) == {"run.json", "runtime.json", "ca.crt"}
    assert config["data"]["ca.crt"] == ENDPOINT.ca


@pytest.mark.parametrize(
    ("trainer", "started"),
    [
        pytest.param({}, False, id="our trainer"),
        pytest.param({"command": ["torchrun", "train.py"]}, True, id="a program that the launcher starts"),
        pytest.param({"args": ["--lr", "1"]}, False, id="a program that its image starts"),
        pytest.param({"command": ["train"], "framework": "custom"}, False, id="a program without Python"),
    ],
)
def test_config_map_has_the_launcher_of_a_program_that_it_starts(trainer: dict[str, Any], started: bool) -> None:
    plan = a_job().with_spec(trainer=trainer).plan()
    data = manifests(plan, replace(ENDPOINT, launcher="print()"))[0]["data"]
    assert data.get("launch.py") == ("print()" if started else None)
    assert set(data) - {"launch.py"} == {"run.json", "runtime.json", "ca.crt"}


def test_job_is_indexed_and_never_retries_by_itself() -> None:
    spec = children(a_job().with_nodes(2))["Job"]["spec"]
    del spec["template"]
    assert spec == {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": pod_failure_rules()},
    }


@pytest.mark.parametrize(
    ("scheduling", "ruled"),
    [
        pytest.param({}, True, id="no queue"),
        pytest.param({"queueName": "gold", "gang": "Volcano"}, True, id="Volcano, which suspends no Job"),
        pytest.param({"queueName": "training"}, False, id="Kueue"),
    ],
)
def test_a_job_that_its_queue_may_suspend_has_no_rules_that_would_fail_it_for_that(
    scheduling: dict[str, Any], ruled: bool
) -> None:
    job = children(a_job().with_nodes(2).with_spec(scheduling=scheduling))["Job"]
    assert (job["spec"]["backoffLimit"], "podFailurePolicy" in job["spec"]) == (0, ruled)


def test_each_rule_fails_the_job_and_stands_for_one_class() -> None:
    """Jobs that run already were made with this order: a class may be added at the end only."""
    codes = {rule: list(r.get("onExitCodes", {}).get("values", [])) for rule, r in enumerate(pod_failure_rules())}
    assert codes == {
        0: [],
        1: [65],
        2: [69],
        3: [71],
        4: [75, 143],
        5: [76],
        6: [78],
        7: [137],
        8: [0, *ALL_CODES],
        9: [73],
        10: [77],
    }
    assert [str(class_) for class_ in RULE_CLASSES] == [
        "Evicted", "DataError", "Unavailable", "OutOfMemoryGPU", "Preempted", "EvaluationGateFailed", "ConfigError",
        "OutOfMemoryHost", "CodeError", "StorageFull", "AuthError",
    ]  # fmt: skip
    for class_, code in ((RULE_CLASSES[rule], code) for rule in (*range(1, 8), 9, 10) for code in codes[rule]):
        assert CLASS_OF_EXIT_CODE[code] is class_


ALL_CODES = [65, 69, 71, 73, 75, 76, 77, 78, 137, 143]


def test_every_known_exit_code_has_its_own_rule() -> None:
    assert (
        sorted(code for code, class_ in CLASS_OF_EXIT_CODE.items() if class_ is not FailureClass.CODE_ERROR)
        == ALL_CODES
    )


def test_pod_runs_as_nobody_without_any_privilege() -> None:
    spec = children(a_job())["Job"]["spec"]["template"]["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(a_job())["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False


def test_grace_period_leaves_time_for_the_save() -> None:
    spec = children(a_job().with_spec(checkpoint={"graceSeconds": 60}))["Job"]["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 75


@pytest.mark.parametrize(
    ("nodes", "address", "subdomain"),
    [
        pytest.param(1, "127.0.0.1", None, id="one node"),
        pytest.param(2, f"{NAME}-0.{SERVICE}", SERVICE, id="two nodes"),
    ],
)
def test_rendezvous(nodes: int, address: str, subdomain: str | None) -> None:
    job = a_job().with_nodes(nodes)
    assert environment(job)["MASTER_ADDR"] == address
    assert children(job)["Job"]["spec"]["template"]["spec"].get("subdomain") == subdomain


def test_environment() -> None:
    job = a_job().with_spec(trainer={"env": [{"name": "HOME", "value": "/tmp"}, {"name": "A", "value": "1"}]})
    url = f"{ENDPOINT.url}/apis/trainer.kubeflow.org/v1alpha1/namespaces/team-a/trainjobs/reviews/status"
    assert environment(job) == {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "FINETUNE_RUN_CONFIG": "/etc/finetune/run.json",
        "FINETUNE_POD_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "FINETUNE_NODE_NAME": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        "KUBEFLOW_TRAINER_SERVER_URL": url,
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": "/etc/finetune/ca.crt",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": "/var/run/secrets/finetune.dev/token",
        "HOME": "/tmp",
        "A": "1",
    }


def test_secrets_give_the_documented_keys_and_the_models_wins() -> None:
    source = {"uri": "hf://org/data", "secretRef": {"name": "data-token"}}
    job = a_job().with_spec(model={"secretRef": {"name": "model-token"}}, dataset={"train": [source]})
    tokens = [entry["valueFrom"]["secretKeyRef"] for entry in container(job)["env"] if entry["name"] == "HF_TOKEN"]
    assert tokens == [
        {"name": "data-token", "key": "HF_TOKEN", "optional": True},
        {"name": "model-token", "key": "HF_TOKEN", "optional": True},
    ]


def test_the_outputs_secret_reaches_the_trainer() -> None:
    job = a_job().with_spec(output={"pushTo": "oci://registry/team/reviews:1", "secretRef": {"name": "push"}})
    found = [entry["valueFrom"]["secretKeyRef"] for entry in container(job)["env"] if entry["name"] == "OCI_PASSWORD"]
    assert [(key["name"], key["optional"]) for key in found] == [("push", True)]


def test_a_trackers_secret_reaches_the_trainer() -> None:
    tracker = {"type": "wandb", "project": "reviews", "secretRef": {"name": "wandb"}}
    entries = container(a_job().with_spec(tracking=[tracker]))["env"]
    keys = [entry["valueFrom"]["secretKeyRef"] for entry in entries if entry["name"] == "WANDB_API_KEY"]
    assert keys == [{"name": "wandb", "key": "WANDB_API_KEY", "optional": True}]


def test_volumes_are_mounted_where_the_run_config_says() -> None:
    job = a_job().with_spec(resources={"sharedMemory": "1Gi"})
    spec = children(job)["Job"]["spec"]["template"]["spec"]
    sources = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {
        mount["mountPath"]: (sources[mount["name"]], mount.get("readOnly")) for mount in container(job)["volumeMounts"]
    }
    token = {"audience": "finetune.dev/progress", "expirationSeconds": 3600, "path": "token"}
    assert mounts == {
        "/etc/finetune": ({"name": "config", "configMap": {"name": NAME}}, True),
        "/var/run/secrets/finetune.dev": (
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            True,
        ),
        "/tmp": ({"name": "tmp", "emptyDir": {}}, None),
        "/scratch": ({"name": "scratch", "emptyDir": {}}, None),
        "/dev/shm": ({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}, None),
        "/volumes/data": ({"name": "claim-0", "persistentVolumeClaim": {"claimName": "data"}}, True),
        "/volumes/models": ({"name": "claim-1", "persistentVolumeClaim": {"claimName": "models"}}, False),
    }


def volumes(job: AJob, runtimes: Runtimes) -> dict[str, tuple[dict[str, Any], bool | None]]:
    """What each path of the training container leads to, and whether it may only be read there."""
    spec = children(job, runtimes)["Job"]["spec"]["template"]["spec"]
    sources = {volume["name"]: volume for volume in spec["volumes"]}
    return {
        mount["mountPath"]: (sources[mount["name"]], mount.get("readOnly"))
        for mount in spec["containers"][0]["volumeMounts"]
    }


def with_volumes(*given: dict[str, Any]) -> Runtimes:
    return Runtimes(default=Runtime("finetune", "default", {"image": "trainer:1", "volumes": list(given)}))


@pytest.mark.parametrize(
    ("volume", "source", "read_only"),
    [
        pytest.param(
            {"claimName": "shared"}, {"persistentVolumeClaim": {"claimName": "shared"}}, False, id="a claim to write to"
        ),
        pytest.param(
            {"hostPath": "/mnt/nvme", "readOnly": True}, {"hostPath": {"path": "/mnt/nvme"}}, True, id="a host's folder"
        ),
        pytest.param({"configMapName": "ca"}, {"configMap": {"name": "ca"}}, False, id="a ConfigMap"),
        pytest.param({"secretName": "netrc"}, {"secret": {"secretName": "netrc"}}, False, id="a Secret"),
    ],
)
def test_volumes_of_runtimes_are_mounted(volume: dict[str, Any], source: dict[str, Any], read_only: bool) -> None:
    longest = "v" * 56
    found = volumes(a_job(), with_volumes({"name": longest, "mountPath": "/mnt/x", **volume}))["/mnt/x"]
    assert found == ({"name": f"volume-{longest}", **source}, read_only)
    assert len(found[0]["name"]) == 63


def test_a_runtimes_volume_may_take_the_place_of_the_scratch_folder() -> None:
    local = {"name": "local", "mountPath": "/scratch", "hostPath": "/mnt/nvme"}
    assert volumes(a_job(), with_volumes(local))["/scratch"] == (
        {"name": "volume-local", "hostPath": {"path": "/mnt/nvme"}},
        False,
    )


def test_the_cache_is_mounted_to_be_written_to() -> None:
    job = a_job().with_spec(cache={"uri": "pvc://cache/downloads"})
    assert volumes(job, RUNTIMES)["/volumes/cache"] == (
        {"name": "claim-0", "persistentVolumeClaim": {"claimName": "cache"}},
        False,
    )


def test_resources_are_guaranteed() -> None:
    job = a_job().with_spec(resources={"cpu": 4, "memory": "8Gi", "gpusPerNode": 2})
    amounts = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2"}
    assert container(job)["resources"] == {"requests": amounts, "limits": amounts}
    assert container(a_job())["resources"] == {}


def test_pod_template_is_merged_and_cannot_take_our_labels() -> None:
    template = {
        "metadata": {"labels": {"team": "a", "finetune.dev/job": "other"}, "annotations": {"note": "x"}},
        "spec": {"nodeSelector": {"gpu": "b200"}, "containers": [{"name": "trainer", "imagePullPolicy": "Always"}]},
    }
    pod = children(a_job().with_spec(podTemplate=template))["Job"]["spec"]["template"]
    assert pod["metadata"] == {"labels": {"team": "a", **LABELS}, "annotations": {"note": "x"}}
    assert pod["spec"]["nodeSelector"] == {"gpu": "b200"}
    assert pod["spec"]["containers"] == [container(a_job()) | {"imagePullPolicy": "Always"}]


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(a_job(), id="one node"),
        pytest.param(
            a_job().with_nodes(2).with_spec(resources={"gpusPerNode": 8, "sharedMemory": "1Gi"}), id="two nodes"
        ),
        pytest.param(
            a_job().with_nodes(2).with_spec(scheduling={"queueName": "a", "topology": {"required": "rack"}}), id="Kueue"
        ),
        pytest.param(
            a_job().with_nodes(2).with_spec(scheduling={"gang": "Volcano", "topology": {"preferred": "rack"}}),
            id="Volcano",
        ),
        pytest.param(
            a_job().with_nodes(2).with_spec(scheduling=COSCHEDULING | {"topology": {"required": "rack"}}),
            id="coscheduling",
        ),
    ],
)
def test_kubernetes_own_types_hold_every_child(job: AJob) -> None:
    runtimes = with_volumes(
        {"name": "a", "mountPath": "/a", "claimName": "a"},
        {"name": "b", "mountPath": "/b", "hostPath": "/b"},
        {"name": "c", "mountPath": "/c", "configMapName": "c"},
        {"name": "d", "mountPath": "/d", "secretName": "d"},
    )
    plan = replace(
        job.with_spec(cache={"uri": "pvc://cache"}).plan(runtimes), excluded=("node-1",), avoided=("node-2",)
    )
    children = (*manifests(plan, ENDPOINT), *fetch_manifests(plan, ENDPOINT))
    known = [(KUBERNETES_TYPES[child["kind"]], child) for child in children if child["kind"] in KUBERNETES_TYPES]
    assert [type_.model_validate(child).kind for type_, child in known] == [child["kind"] for _, child in known]
    assert {child["kind"] for _, child in known} == {"ConfigMap", "Service", "Job"} & {c["kind"] for c in children}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        pytest.param({"suspended": True}, ("spec", "suspended"), id="an unknown field"),
        pytest.param({"completions": "2"}, ("spec", "completions"), id="another type"),
        pytest.param({"template": {"spec": {"containers": [{}]}}}, ("containers", 0, "name"), id="a missing field"),
    ],
)
def test_kubernetes_types_refuse_what_they_do_not_hold(change: dict[str, Any], path: tuple[str | int, ...]) -> None:
    job = children(a_job())["Job"]
    with pytest.raises(ValidationError) as refused:
        models.V1Job.model_validate({**job, "spec": {**job["spec"], **change}})
    assert [error["loc"][-len(path) :] for error in refused.value.errors()] == [path]


def test_two_calls_share_nothing() -> None:
    plan = a_job().plan()
    first, second = (manifests(plan, ENDPOINT) for _ in range(2))
    first[-1]["spec"]["template"]["metadata"]["labels"]["x"] = "y"
    first[-1]["spec"]["template"]["spec"]["containers"][0]["env"].clear()
    assert second == manifests(plan, ENDPOINT)
