"""Laying a job's spec over its runtimes': objects are merged, lists replaced, environments merged by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.runtime import RuntimeVolume
from finetune_operator.core.job import Raw, without_nulls
from finetune_operator.core.podtemplate import merge_pod

SHARED = ("resources", "parallelism", "checkpoint", "output", "cache", "scheduling")
"""Sections that a runtime and a job both have under the same name."""


@dataclass(frozen=True)
class Runtime:
    """A FineTuneRuntime as stored."""

    namespace: str
    name: str
    spec: Raw

    @property
    def title(self) -> str:
        return f"FineTuneRuntime {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Runtimes:
    """What a job builds on. `named` is None where the runtime that it asks for does not exist."""

    default: Runtime | None = None
    """Always the operator's own."""
    named: Runtime | None = None
    operator_namespace: str = ""

    def layers(self) -> tuple[Runtime, ...]:
        found = [layer for layer in (self.default, self.named) if layer is not None]
        return tuple({layer.title: layer for layer in found}.values())

    def is_platforms(self, runtime: Runtime) -> bool:
        """Whether the runtime is the word of who runs the operator, and may permit; others only give defaults."""
        return runtime == self.default or runtime.namespace == self.operator_namespace


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


def volumes_of(runtimes: Iterable[Runtime]) -> tuple[RuntimeVolume, ...]:
    """The volumes of all runtimes; of two with one name the later replaces the earlier."""
    stored = (volume for runtime in runtimes for volume in without_nulls(runtime.spec).get("volumes", []))
    volumes = (RuntimeVolume.model_validate(volume) for volume in stored)
    return tuple({volume.name: volume for volume in volumes}.values())


def _lay_over(base: Raw, over: Raw) -> dict[str, Any]:
    result = merge(base, over)
    if "topology" in over.get("scheduling", {}):
        result["scheduling"]["topology"] = over["scheduling"]["topology"]
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
