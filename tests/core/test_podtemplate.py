"""A podTemplate adds to the pod and never loosens it."""

from typing import Any

import pytest

from finetune_operator.core.podtemplate import merge_pod, problems_of_template

POD: dict[str, Any] = {
    "spec": {
        "containers": [
            {"name": "trainer", "env": [{"name": "A", "value": "1"}], "volumeMounts": [{"mountPath": "/a"}]}
        ],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "securityContext": {"runAsUser": 65532, "fsGroup": 65532},
    }
}


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        pytest.param(
            {"securityContext": {"fsGroup": 1}}, {"securityContext": {"runAsUser": 65532, "fsGroup": 1}}, id="object"
        ),
        pytest.param(
            {"volumes": [{"name": "scratch", "ephemeral": {}}, {"name": "new", "emptyDir": {}}]},
            {"volumes": [{"name": "scratch", "ephemeral": {}}, {"name": "new", "emptyDir": {}}]},
            id="a volume of the same name is replaced: it can have one source only",
        ),
        pytest.param(
            {"containers": [{"name": "trainer", "env": [{"name": "B", "value": "2"}]}, {"name": "sidecar"}]},
            {
                "containers": [
                    {
                        "name": "trainer",
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                        "volumeMounts": [{"mountPath": "/a"}],
                    },
                    {"name": "sidecar"},
                ]
            },
            id="containers and their environments by name",
        ),
    ],
)
def test_merging(over: dict[str, Any], expected: dict[str, Any]) -> None:
    assert merge_pod(POD, {"spec": over}) == {"spec": POD["spec"] | expected}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({"hostNetwork": True}, "hostNetwork", id="host network"),
        pytest.param({"hostPID": True}, "hostPID", id="host processes"),
        pytest.param({"hostIPC": True}, "hostIPC", id="host ipc"),
        pytest.param(
            {"containers": [{"name": "trainer", "ports": [{"containerPort": 1, "hostPort": 80}]}]},
            "containers[0].ports[0].hostPort",
            id="host port",
        ),
        pytest.param(
            {"securityContext": {"windowsOptions": {"hostProcess": True}}},
            "securityContext.windowsOptions.hostProcess",
            id="host process",
        ),
        pytest.param({"securityContext": {"runAsNonRoot": False}}, "securityContext.runAsNonRoot", id="root pod"),
        pytest.param({"securityContext": {"runAsUser": 0}}, "securityContext.runAsUser", id="user 0"),
        pytest.param(
            {"containers": [{"name": "trainer", "securityContext": {"privileged": True}}]},
            "containers[0].securityContext.privileged",
            id="privileged",
        ),
        pytest.param(
            {"initContainers": [{"name": "i", "securityContext": {"allowPrivilegeEscalation": True}}]},
            "initContainers[0].securityContext.allowPrivilegeEscalation",
            id="escalation in an init container",
        ),
        pytest.param(
            {"containers": [{"name": "trainer", "securityContext": {"readOnlyRootFilesystem": False}}]},
            "containers[0].securityContext.readOnlyRootFilesystem",
            id="writable root",
        ),
        pytest.param(
            {"containers": [{"name": "trainer", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]},
            "containers[0].securityContext.capabilities.add",
            id="capability",
        ),
        pytest.param(
            {"containers": [{"name": "trainer", "securityContext": {"capabilities": {"drop": []}}}]},
            "containers[0].securityContext.capabilities.drop",
            id="capabilities kept",
        ),
        pytest.param(
            {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}},
            "securityContext.appArmorProfile.type",
            id="apparmor",
        ),
        pytest.param(
            {"containers": [{"name": "trainer", "securityContext": {"procMount": "Unmasked"}}]},
            "containers[0].securityContext.procMount",
            id="proc",
        ),
        pytest.param(
            {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
            "securityContext.seccompProfile.type",
            id="seccomp",
        ),
    ],
)
def test_what_loosens_a_pod_is_refused_by_its_path_unless_the_platform_says_so(
    spec: dict[str, Any], field: str
) -> None:
    problems = problems_of_template({"spec": spec}, "spec.podTemplate")
    assert [problem.field for problem in problems] == [f"spec.podTemplate.spec.{field}"]
    assert problems_of_template({"spec": spec}, "spec.podTemplate", platforms_own=True) == []


@pytest.mark.parametrize("platforms_own", [False, True])
@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param(
            {"containers": [{"name": "trainer", "env": [{"name": "RANK", "value": "0"}]}]},
            "containers[0].env[0].name",
            id="a variable of ours",
        ),
        pytest.param({"containers": [{"image": "x"}]}, "containers[0].name", id="a container without a name"),
        pytest.param({"containers": "trainer"}, "containers", id="no list"),
        pytest.param({"volumes": [{"name": "v", "hostPath": "/"}]}, "volumes[0].hostPath", id="no object"),
    ],
)
def test_what_cannot_be_a_pod_is_refused_to_everybody(spec: dict[str, Any], field: str, platforms_own: bool) -> None:
    problems = problems_of_template({"spec": spec}, "spec.podTemplate", platforms_own)
    assert [problem.field for problem in problems] == [f"spec.podTemplate.spec.{field}"]


def test_what_does_not_loosen_a_pod_is_accepted() -> None:
    spec = {
        "nodeSelector": {"gpu": "b200"},
        "hostNetwork": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
        "containers": [{"name": "trainer", "securityContext": {"capabilities": {"drop": ["ALL"]}}}],
        "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}],
    }
    assert problems_of_template({"spec": spec}, "spec.podTemplate") == []
