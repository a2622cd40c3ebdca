"""Layers: the operator's default runtime, then the named one, then the job; what comes later wins."""

from typing import Any

import pytest

from finetune_operator.core.layers import Runtime, Runtimes, layered, volumes_of


@pytest.mark.parametrize(
    ("runtimes", "spec", "expected"),
    [
        pytest.param(
            [{"image": "a:1", "precision": "bf16"}],
            {"task": "t", "training": {"seed": 7}},
            {"task": "t", "trainer": {"image": "a:1"}, "training": {"precision": "bf16", "seed": 7}},
            id="a runtime's fields take their place in the job",
        ),
        pytest.param(
            [{"resources": {"cpu": "1", "nodes": 2}}, {"resources": {"cpu": "2"}}],
            {"resources": {"cpu": "3", "memory": None}},
            {"resources": {"cpu": "3", "nodes": 2}},
            id="objects are merged, null is absent",
        ),
        pytest.param(
            [{"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]}],
            {"trainer": {"env": [{"name": "B", "value": "2"}, {"name": "C", "value": "2"}]}},
            {
                "trainer": {
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "2"}]
                }
            },
            id="environments are merged by name",
        ),
        pytest.param(
            [{"podTemplate": {"spec": {"volumes": [{"name": "a", "emptyDir": {}}], "tolerations": [{"key": "x"}]}}}],
            {"podTemplate": {"spec": {"volumes": [{"name": "b", "emptyDir": {}}], "tolerations": [{"key": "y"}]}}},
            {
                "podTemplate": {
                    "spec": {
                        "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}],
                        "tolerations": [{"key": "y"}],
                    }
                }
            },
            id="pod templates are merged as Kubernetes does",
        ),
        pytest.param(
            [
                {"cache": {"uri": "pvc://a"}, "scheduling": {"queueName": "q", "gang": "Kueue"}},
                {"cache": {"uri": "pvc://b"}},
            ],
            {"scheduling": {"queueName": "mine"}},
            {"cache": {"uri": "pvc://b"}, "scheduling": {"queueName": "mine", "gang": "Kueue"}},
            id="the cache and who places the pods",
        ),
        pytest.param(
            [{"scheduling": {"topology": {"preferred": "rack"}}}, {"scheduling": {"queueName": "q"}}],
            {"scheduling": {"topology": {"required": "block"}}},
            {"scheduling": {"queueName": "q", "topology": {"required": "block"}}},
            id="a topology is one choice: required replaces preferred",
        ),
        pytest.param(
            [{"volumes": [], "limits": {"maxGpus": 1}}], {"task": "t"}, {"task": "t"}, id="not a job's fields"
        ),
    ],
)
def test_layers(runtimes: list[dict[str, Any]], spec: dict[str, Any], expected: dict[str, Any]) -> None:
    assert layered(runtimes, spec) == expected


def test_layers_are_not_changed_by_laying_them() -> None:
    runtime: dict[str, Any] = {"resources": {"cpu": "1"}, "env": [{"name": "A", "value": "1"}]}
    layered([runtime], {"resources": {"cpu": "2"}, "trainer": {"env": [{"name": "A", "value": "2"}]}})
    assert runtime == {"resources": {"cpu": "1"}, "env": [{"name": "A", "value": "1"}]}


def test_volumes_are_laid_over_each_other_by_name() -> None:
    shared, own = ({"name": "shared", "mountPath": "/s", "claimName": name} for name in ("platform", "team"))
    other = {"name": "other", "mountPath": "/o", "secretName": "keys", "hostPath": None}
    layers = [Runtime("finetune", "default", {"volumes": [shared, other]}), Runtime("team-a", "x", {"volumes": [own]})]
    volumes = {volume.name: volume.claim_name or volume.secret_name for volume in volumes_of(layers)}
    assert volumes == {"shared": "team", "other": "keys"}


def test_the_platforms_word_is_what_stands_in_the_operators_namespace() -> None:
    default, named = Runtime("finetune", "default", {}), Runtime("finetune", "h200", {})
    own = Runtime("team-a", "h200", {})
    assert Runtimes(default, named, "finetune").is_platforms(default)
    assert Runtimes(default, named, "finetune").is_platforms(named)
    assert not Runtimes(default, own, "finetune").is_platforms(own)
