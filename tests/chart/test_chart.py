"""The chart: what it installs, with which rights, and which values it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from support.cluster.process import CommandFailed
from support.operator_calls import calls_of_the_operator

from .conftest import Object, Render

pytestmark = pytest.mark.cluster


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def operator_rules(objects: list[Object]) -> list[dict[str, Any]]:
    """Every rule of every role that is bound to the operator's account."""
    bound = {
        (binding["roleRef"]["kind"], binding["roleRef"]["name"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in of_kind(objects, kind)
        if any(subject["name"] == "finetune-operator" for subject in binding["subjects"])
    }
    roles = [*of_kind(objects, "Role"), *of_kind(objects, "ClusterRole")]
    return [rule for role in roles if (role["kind"], role["metadata"]["name"]) in bound for rule in role["rules"]]


def granted(objects: list[Object]) -> set[tuple[str, str, str]]:
    """(verb, group, resource) of everything that the operator may do."""
    return {
        (verb, group, resource)
        for rule in operator_rules(objects)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    "settings",
    [pytest.param((), id="whole cluster"), pytest.param(("watchNamespaces={a,b}",), id="two namespaces")],
)
def test_the_operators_rights_cover_each_call_and_no_more(render: Render, settings: tuple[str, ...]) -> None:
    assert granted(render(*settings)) == calls_of_the_operator()


def test_no_right_is_a_wildcard_and_no_secret_is_read_but_its_own(render: Render) -> None:
    rules = operator_rules(render())
    assert [rule for rule in rules if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]] == []
    secrets = [rule for rule in rules if "secrets" in rule["resources"]]
    readable = [rule for rule in secrets if set(rule["verbs"]) - {"create"}]
    assert [rule["resourceNames"] for rule in readable] == [["finetune-operator-tls"]]


def test_in_two_namespaces_the_operator_may_write_nowhere_else(render: Render) -> None:
    objects = render("watchNamespaces={a,b}")
    (cluster_role,) = [
        role for role in of_kind(objects, "ClusterRole") if role["metadata"]["name"] == "finetune-operator"
    ]
    assert cluster_role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
    places = {binding["metadata"]["namespace"] for binding in of_kind(objects, "RoleBinding")}
    assert places == {"a", "b", "finetune-system"}


def test_the_operator_runs_as_nobody_on_a_read_only_root(render: Render) -> None:
    (deployment,) = of_kind(render(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["seccompProfile"]["type"]) == (
        True,
        "RuntimeDefault",
    )
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_a_digest_wins_over_a_tag(render: Render) -> None:
    digest = "sha256:" + "0" * 64
    (deployment,) = of_kind(render(f"image.digest={digest}", "image.tag=v1"), "Deployment")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f"/operator@{digest}")


def test_monitors_come_when_asked_for(render: Render) -> None:
    kinds = {item["kind"] for item in render("metrics.monitors=true")} - {item["kind"] for item in render()}
    assert kinds == {"PodMonitor", "ServiceMonitor"}


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        pytest.param("imgae.tag=1", "imgae", id="an unknown value"),
        pytest.param("logLevel=LOUD", "logLevel", id="a level that does not exist"),
        pytest.param("image.digest=abc", "digest", id="a digest that is none"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(render: Render, setting: str, field: str) -> None:
    with pytest.raises(CommandFailed, match=field):
        render(setting)
