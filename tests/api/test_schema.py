"""The CRDs are generated, small, structural, and free of what would bite a user at an upgrade."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import schema
from finetune_api.job import FineTuneJobSpec

CHART_CRDS = Path(__file__).parents[2] / "charts" / "finetune-operator" / "crds"
YAML_1_1_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"}


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in `value` with its path."""
    yield path, value
    for name, item in value.get("properties", {}).items():
        yield from nodes(item, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(value.get(name), dict):
            yield from nodes(value[name], f"{path}.{name}")


@pytest.fixture(params=[schema.job_crd, schema.runtime_crd], ids=["FineTuneJob", "FineTuneRuntime"])
def spec_nodes(request: pytest.FixtureRequest) -> list[tuple[str, dict[str, Any]]]:
    (version,) = request.param()["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    return [
        item
        for name in ("spec", "status")
        if name in root["properties"]
        for item in nodes(root["properties"][name], name)
    ]


def test_the_committed_crds_are_the_generated_ones() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in CHART_CRDS.iterdir()}
    assert committed == schema.files(), "run: make generate"


def test_each_crd_is_small_enough_for_client_side_apply() -> None:
    """The last-applied annotation that kubectl writes is limited to 256 KiB; we stay far below."""
    sizes = {name: len(text.encode()) for name, text in schema.files().items()}
    assert {name for name, size in sizes.items() if size >= 100_000} == set()


def test_the_schema_is_structural_and_has_no_defaults(spec_nodes: list[tuple[str, dict[str, Any]]]) -> None:
    allowed = {*schema.KEPT, "description", "properties", "items", "additionalProperties"}
    allowed |= {"exclusiveMinimum", "exclusiveMaximum"}
    strange = {path: set(node) - allowed for path, node in spec_nodes if set(node) - allowed}
    untyped = [path for path, node in spec_nodes if "type" not in node and "x-kubernetes-int-or-string" not in node]
    assert (strange, untyped) == ({}, [])


def test_every_list_string_and_map_is_bounded(spec_nodes: list[tuple[str, dict[str, Any]]]) -> None:
    """Without bounds the API server's cost estimate for CEL refuses the CRD."""
    bound = {"array": "maxItems", "string": "maxLength"}
    unbounded = [
        path
        for path, node in spec_nodes
        if (limit := bound.get(node.get("type", ""))) and limit not in node and "enum" not in node
    ]
    unbounded += [path for path, node in spec_nodes if "additionalProperties" in node and "maxProperties" not in node]
    assert unbounded == []


def test_every_optional_field_is_nullable(spec_nodes: list[tuple[str, dict[str, Any]]]) -> None:
    wrong = [
        f"{path}.{name}"
        for path, node in spec_nodes
        for name, item in node.get("properties", {}).items()
        if (name in node.get("required", [])) == bool(item.get("nullable"))
    ]
    assert wrong == []


def test_no_optional_field_has_an_enum(spec_nodes: list[tuple[str, dict[str, Any]]]) -> None:
    """The API server refuses null for an enum, even one that lists null."""
    assert [path for path, node in spec_nodes if node.get("nullable") and "enum" in node] == []


def test_no_enum_value_is_a_yaml_boolean_or_null(spec_nodes: list[tuple[str, dict[str, Any]]]) -> None:
    """Conditions say "True", but no person writes those."""
    written = [node for path, node in spec_nodes if path.startswith("spec")]
    values = {str(value).lower() for node in written for value in node.get("enum", [])}
    rules = [rule["rule"] for node in written for rule in node.get("x-kubernetes-validations", [])]
    values |= {value for rule in rules if rule.startswith("self in [") for value in re.findall(r"'([^']*)'", rule)}
    assert values & YAML_1_1_WORDS == set()


def test_opaque_data_carries_no_rule(spec_nodes: list[tuple[str, dict[str, Any]]]) -> None:
    """A rule on a node that holds opaque data can make stored objects unwritable after an upgrade."""
    opaque = [path for path, node in spec_nodes if node.get("x-kubernetes-preserve-unknown-fields")]
    ruled = [path for path, node in spec_nodes if node.get("x-kubernetes-validations")]
    assert opaque != []
    assert [rule for rule in ruled for path in opaque if path.startswith(rule)] == []


def test_defaults_are_told_in_the_descriptions() -> None:
    described = schema.structural(FineTuneJobSpec)["properties"]["training"]["properties"]["learningRate"]
    assert described == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "description": "Peak learning rate. Default: 5e-05.",
        "nullable": True,
    }


def test_kubectl_shows_what_people_ask_for() -> None:
    (version,) = schema.job_crd()["spec"]["versions"]
    names = [column["name"] for column in version["additionalPrinterColumns"]]
    assert names == ["Phase", "Nodes", "Progress", "Loss", "ETA", "Restarts", "Reason", "Age"]


def test_crd_files_have_no_yaml_anchors() -> None:
    assert all("&id" not in text and yaml.safe_load(text) for text in schema.files().values())
