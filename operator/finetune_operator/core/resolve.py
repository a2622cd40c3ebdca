"""A job's spec laid over its runtimes': valid as a whole and within the platform's limits, or told every fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api.evaluation import sources_of
from finetune_api.job import FineTuneJobSpec
from finetune_api.manifest import Problem, problems_of
from finetune_api.names import PROGRAM_ENV
from finetune_api.runtime import FineTuneRuntimeSpec, Limits
from finetune_operator.core.job import Job, without_nulls
from finetune_operator.core.layers import Runtime, Runtimes, layered
from finetune_operator.core.limits import Bound, Layer, images_of, problems_of_limits
from finetune_operator.core.podtemplate import problems_of_template
from finetune_operator.core.rules import problems_of_rules


@dataclass(frozen=True)
class Invalid:
    """What is wrong, under one CamelCase reason."""

    reason: str
    problems: list[Problem]


def resolved(job: Job, runtimes: Runtimes) -> FineTuneJobSpec | Invalid:
    """The job's spec laid over its runtimes', valid as a whole and within the limits."""
    for runtime in runtimes.layers():
        if problems := list(_problems_of_runtime(runtime, runtimes.is_platforms(runtime))):
            return Invalid("InvalidRuntime", problems)
    if problems := problems_of_template(job.spec.get("podTemplate", {}), "spec.podTemplate"):
        return Invalid("InvalidSpec", problems)
    try:
        spec = FineTuneJobSpec.model_validate(layered([runtime.spec for runtime in runtimes.layers()], job.spec))
    except ValidationError as error:
        found = problems_of(error, FineTuneJobSpec)
        return Invalid("InvalidSpec", [_below("spec", problem) for problem in found])
    rules = problems_of_rules(spec.run_policy.rules, "spec.runPolicy.rules")
    if problems := [*_relative_paths(spec), *_problems_of_elastic(spec), *_reserved_variables(spec), *rules]:
        return Invalid("InvalidSpec", problems)
    if problems := _beyond_limits(job, runtimes, spec):
        return Invalid("LimitExceeded", problems)
    return spec


def _reserved_variables(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """Restricted here, not in the CRD: there it would make stored objects invalid."""
    for index, variable in enumerate(spec.trainer.env if spec.trainer.own_program else []):
        if variable.name in PROGRAM_ENV:
            place = f"spec.trainer.env[{index}].name"
            yield Problem(place, f"the operator sets {variable.name}", "choose another name")


def _problems_of_runtime(runtime: Runtime, platforms_own: bool) -> Iterator[Problem]:
    raw = without_nulls(runtime.spec)
    place = f"{runtime.title}: spec"
    try:
        FineTuneRuntimeSpec.model_validate(raw)
    except ValidationError as error:
        for problem in problems_of(error, FineTuneRuntimeSpec):
            yield _below(place, problem)
        return
    yield from problems_of_template(raw.get("podTemplate", {}), f"{place}.podTemplate", platforms_own)


def _beyond_limits(job: Job, runtimes: Runtimes, spec: FineTuneJobSpec) -> list[Problem]:
    """A runtime in the job's namespace is judged as the job is; only the platform's own set limits."""
    layers = [(runtime, without_nulls(runtime.spec)) for runtime in runtimes.layers()]
    own = [(runtime, raw) for runtime, raw in layers if runtimes.is_platforms(runtime)]
    others = [Layer(f"{runtime.title}: spec", raw) for runtime, raw in layers if not runtimes.is_platforms(runtime)]
    bounds = [Bound(runtime.title, Limits.model_validate(raw.get("limits", {}))) for runtime, raw in own]
    images = {image for _, raw in own for image in images_of(raw)}
    return problems_of_limits(spec, [*others, Layer("spec", job.spec)], bounds, images)


def _below(place: str, problem: Problem) -> Problem:
    return Problem(f"{place}.{problem.field}", problem.reason, problem.hint)


def _relative_paths(spec: FineTuneJobSpec) -> Iterator[Problem]:
    sources = {f"{field}.uri": source.uri for field, source in sources_of(spec.dataset, spec.evaluation)}
    for field, uri in (spec.model.uris() | sources).items():
        if uri.startswith("./"):
            yield Problem(field, f"{uri!r} is relative to a machine", "use pvc://claim/path, hf:// or pkg://")


def _problems_of_elastic(spec: FineTuneJobSpec) -> Iterator[Problem]:
    nodes, elastic = spec.resources.nodes, spec.elastic
    if elastic.min_nodes is not None and elastic.min_nodes > nodes:
        reason = f"{elastic.min_nodes} is more than spec.resources.nodes, {nodes}"
        yield Problem("spec.elastic.minNodes", reason, f"use 1 to {nodes}, or more spec.resources.nodes")
    if elastic.max_nodes is not None and elastic.max_nodes < nodes:
        reason = f"{elastic.max_nodes} is less than spec.resources.nodes, {nodes}"
        yield Problem("spec.elastic.maxNodes", reason, f"use {nodes} or more, or fewer spec.resources.nodes")
