"""CRDs from the models: structural schemas without defaults, every optional field nullable, every bound stated.

`python -m finetune_api.schema FOLDER` writes them into the chart; a test compares them with the committed files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from finetune_api.fields import NAME_PATTERN
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import GROUP, JOBS, MAX_JOB_NAME, RUNTIMES, VERSION
from finetune_api.runtime import FineTuneRuntimeSpec
from finetune_api.status import Status

KEPT = (
    "type", "format", "pattern", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "maxProperties", "required", "nullable", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations",
)  # fmt: skip

COLUMNS = (
    ("Phase", "string", ".status.phase"),
    ("Nodes", "integer", ".status.nodes.ready"),
    ("Progress", "integer", ".status.progress.percentage"),
    ("Loss", "string", ".status.progress.loss"),
    ("ETA", "integer", ".status.progress.etaSeconds"),
    ("Restarts", "integer", ".status.restarts.total"),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'),
    ("Age", "date", ".metadata.creationTimestamp"),
)
MAX_UNBOUNDED_STRING = 4096
MAX_ENUM_VALUE = 64


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """`model` as a structural OpenAPI v3 schema: no $ref, const, default, title or anyOf."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _resolve(schema, definitions)
    if schema.get("x-kubernetes-int-or-string"):
        schema = {name: item for name, item in schema.items() if name != "type"}
    result = {name: schema[name] for name in KEPT if name in schema}
    result |= _exclusive_bounds(schema)
    if description := _description(schema):
        result["description"] = description
    if "properties" in schema:
        result["properties"] = {name: _property(item, definitions) for name, item in schema["properties"].items()}
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(schema["additionalProperties"], definitions)
    if "items" in schema:
        result["items"] = _convert(schema["items"], definitions)
    if result.get("type") == "string" and "enum" not in result:
        result.setdefault("maxLength", MAX_UNBOUNDED_STRING)
    return result


def _resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """`schema` with references followed and "or null" said as `nullable`."""
    while "$ref" in schema or "anyOf" in schema or "const" in schema:
        rest = {name: item for name, item in schema.items() if name not in {"$ref", "anyOf", "const"}}
        if "const" in schema:
            schema = rest | {"enum": [schema["const"]]}
        elif "$ref" in schema:
            schema = definitions[schema["$ref"].rsplit("/", 1)[-1]] | rest
        else:
            (value,) = (branch for branch in schema["anyOf"] if branch.get("type") != "null")
            schema = value | rest | {"nullable": True}
    return schema


def _property(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    converted = _convert(schema, definitions)
    if "default" not in schema:
        return converted
    if "enum" in converted:
        converted = _enum_that_may_be_null(converted)
    return converted | {"nullable": True}


def _enum_that_may_be_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The API server holds null against an `enum`, even one that lists it; a CEL rule is not asked about null."""
    values = schema.pop("enum")
    words = ", ".join(values)
    schema["description"] = f"{schema.get('description', '')} One of {words}.".strip()
    rule = {"rule": f"self in {values}", "message": f"use one of {words}"}
    return schema | {"maxLength": MAX_ENUM_VALUE, "x-kubernetes-validations": [rule]}


def _exclusive_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    bounds = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
    return {
        name: value
        for ours, bound in bounds.items()
        if ours in schema
        for name, value in ((bound, schema[ours]), (ours, True))
    }


def _description(schema: dict[str, Any]) -> str:
    text = " ".join(schema.get("description", "").split())
    default = schema.get("default")
    if isinstance(default, bool | int | float | str):
        shown = str(default).lower() if isinstance(default, bool) else default
        return f"{text} Default: {shown}.".strip()
    return text


def _crd(plural: str, singular: str, kind: str, short: str, version: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": plural,
                "singular": singular,
                "kind": kind,
                "listKind": f"{kind}List",
                "shortNames": [short],
                "categories": ["all", "ml"],
            },
            "versions": [{"name": VERSION, "served": True, "storage": True} | version],
        },
    }


def _object_schema(description: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            **properties,
        },
        **more,
    }


def job_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneJob."""
    name_rule = {
        "rule": f"self.metadata.name.size() <= {MAX_JOB_NAME} && self.metadata.name.matches('{NAME_PATTERN}')",
        "message": f"metadata.name: at most {MAX_JOB_NAME} characters, lower-case letters, digits and -, "
        "a letter first: pods are named after it",
    }
    schema = _object_schema(
        "A fine-tuning run: one task, one model, one data set, one method, the hardware.",
        {"spec": structural(FineTuneJobSpec), "status": structural(Status)},
        **{"x-kubernetes-validations": [name_rule]},
    )
    columns = [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS]
    version = {
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "selectableFields": [{"jsonPath": ".status.phase"}],
    }
    return _crd(JOBS, "finetunejob", "FineTuneJob", "ftj", version)


def runtime_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneRuntime."""
    schema = _object_schema("A platform's defaults for jobs.", {"spec": structural(FineTuneRuntimeSpec)})
    columns = [
        {"name": "Image", "type": "string", "jsonPath": ".spec.image"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    version = {"schema": {"openAPIV3Schema": schema}, "additionalPrinterColumns": columns}
    return _crd(RUNTIMES, "finetuneruntime", "FineTuneRuntime", "ftr", version)


def files() -> dict[str, str]:
    """File name to text of every CRD, as committed in the chart."""
    crds = (job_crd(), runtime_crd())
    return {f"{crd['metadata']['name']}.yaml": _to_yaml(crd) for crd in crds}


class _PlainDumper(yaml.SafeDumper):
    """Without anchors, which people do not expect in a CRD."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _to_yaml(crd: dict[str, Any]) -> str:
    return yaml.dump(crd, Dumper=_PlainDumper, sort_keys=False, width=160, allow_unicode=True, default_flow_style=None)


def main(folder: str) -> None:
    for name, text in files().items():
        Path(folder, name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
