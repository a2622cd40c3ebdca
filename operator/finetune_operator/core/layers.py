"""Laying a job's spec over its runtimes': objects are merged, lists replaced, environments merged by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_operator.core.job import Raw, without_nulls
from finetune_operator.core.podtemplate import merge_pod

SHARED = ("resources", "parallelism", "checkpoint", "output")
"""Sections that a runtime and a job both have under the same name."""


def layered(runtimes: Iterable[Raw], spec: Raw) -> dict[str, Any]:
    """`spec` over the specs of `runtimes`, of which later ones win."""
    result: dict[str, Any] = {}
    for layer in (*(as_job(without_nulls(runtime)) for runtime in runtimes), without_nulls(spec)):
        result = _lay_over(result, layer)
    return result


def as_job(runtime: Raw) -> dict[str, Any]:
    """A runtime's spec in the words of a job's."""
    result = {name: runtime[name] for name in SHARED if name in runtime}
    trainer = {name: runtime[name] for name in ("image", "env") if name in runtime}
    if trainer:
        result["trainer"] = trainer
    if "precision" in runtime:
        result["training"] = {"precision": runtime["precision"]}
    if "podTemplate" in runtime:
        result["podTemplate"] = runtime["podTemplate"]
    return result


def _lay_over(base: Raw, over: Raw) -> dict[str, Any]:
    result = merge(base, over)
    templates = base.get("podTemplate", {}), over.get("podTemplate", {})
    if all(templates):
        result["podTemplate"] = merge_pod(*templates)
    environments = base.get("trainer", {}).get("env", []), over.get("trainer", {}).get("env", [])
    if all(environments):
        result["trainer"]["env"] = _merge_env(*environments)
    return result


def merge(base: Raw, over: Raw) -> dict[str, Any]:
    result = dict(base)
    for name, item in over.items():
        former = result.get(name)
        result[name] = merge(former, item) if isinstance(former, Mapping) and isinstance(item, Mapping) else item
    return result


def _merge_env(base: list[Raw], over: list[Raw]) -> list[Raw]:
    return list({variable["name"]: variable for variable in (*base, *over)}.values())
