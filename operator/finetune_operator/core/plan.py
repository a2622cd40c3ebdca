"""`plan`: every decision about a run, made once, from the job and the runtimes that it builds on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from finetune_api import names
from finetune_api.evaluation import sources_of
from finetune_api.fields import split_volume_uri
from finetune_api.job import FineTuneJobSpec
from finetune_api.manifest import Problem, problems_of
from finetune_api.placement import EnvVar, PodTemplate
from finetune_api.progress import Failure, FailureClass
from finetune_api.run import JobIdentity, RunConfig
from finetune_api.runtime import FineTuneRuntimeSpec
from finetune_operator.core.job import Job, Raw, without_nulls
from finetune_operator.core.layers import layered
from finetune_operator.core.podtemplate import problems_of_template
from finetune_operator.core.text import failure


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
    named: Runtime | None = None

    def layers(self) -> tuple[Runtime, ...]:
        found = [layer for layer in (self.default, self.named) if layer is not None]
        return tuple({layer.title: layer for layer in found}.values())


@dataclass(frozen=True)
class Plan:
    """A run with every default applied: what its pods are told, and what they are made of."""

    config: RunConfig
    image: str
    env: tuple[EnvVar, ...]
    pod_template: PodTemplate

    @property
    def attempt(self) -> int:
        return self.config.job.attempt

    @property
    def name(self) -> str:
        """Name of every child of this attempt."""
        job = self.config.job
        return names.attempt_name(job.name, job.uid, job.run, job.attempt)

    @property
    def nodes(self) -> int:
        return self.config.resources.nodes

    def with_attempt(self, attempt: int) -> Plan:
        job = self.config.job.model_copy(update={"attempt": attempt})
        return replace(self, config=self.config.model_copy(update={"job": job}))


@dataclass(frozen=True)
class Refused:
    """Why a run cannot be planned. `waits` where it can as soon as another object appears."""

    failure: Failure
    waits: bool = False


def wanted_runtime(job: Job) -> str:
    """Name of the runtime that the job builds on."""
    reference = job.spec.get("runtimeRef") or {}
    return str(reference.get("name", names.DEFAULT_RUNTIME))


def plan(job: Job, run: int, runtimes: Runtimes) -> Plan | Refused:
    """How run number `run` of the job would be carried out, as attempt 1."""
    if job.spec.get("runtimeRef") and runtimes.named is None:
        return Refused(_runtime_not_found(job), waits=True)
    spec = _resolve(job, runtimes)
    if isinstance(spec, Refused):
        return spec
    if spec.trainer.image is None:
        return Refused(_no_image())
    return Plan(
        config=_run_config(job, run, spec),
        image=spec.trainer.image,
        env=tuple(spec.trainer.env),
        pod_template=spec.pod_template,
    )


def _resolve(job: Job, runtimes: Runtimes) -> FineTuneJobSpec | Refused:
    """The job's spec laid over its runtimes', valid as a whole."""
    layers = runtimes.layers()
    for runtime in layers:
        if problems := list(_problems_of_runtime(runtime)):
            return Refused(_invalid("InvalidRuntime", problems))
    if problems := problems_of_template(job.spec.get("podTemplate", {}), "spec.podTemplate"):
        return Refused(_invalid("InvalidSpec", problems))
    try:
        spec = FineTuneJobSpec.model_validate(layered([runtime.spec for runtime in layers], job.spec))
    except ValidationError as error:
        found = problems_of(error, FineTuneJobSpec)
        return Refused(_invalid("InvalidSpec", [_below("spec", problem) for problem in found]))
    if problems := list(_relative_paths(spec)):
        return Refused(_invalid("InvalidSpec", problems))
    return spec


def _problems_of_runtime(runtime: Runtime) -> Iterator[Problem]:
    raw = without_nulls(runtime.spec)
    try:
        FineTuneRuntimeSpec.model_validate(raw)
    except ValidationError as error:
        for problem in problems_of(error, FineTuneRuntimeSpec):
            yield _below(f"{runtime.title}: spec", problem)
        return
    yield from problems_of_template(raw.get("podTemplate", {}), f"{runtime.title}: spec.podTemplate")


def _below(place: str, problem: Problem) -> Problem:
    return Problem(f"{place}.{problem.field}", problem.reason, problem.hint)


def _relative_paths(spec: FineTuneJobSpec) -> Iterator[Problem]:
    sources = {f"{field}.uri": source.uri for field, source in sources_of(spec.dataset, spec.evaluation)}
    for field, uri in (spec.model.uris() | sources).items():
        if uri.startswith("./"):
            yield Problem(field, f"{uri!r} is relative to a machine", "use pvc://claim/path, hf:// or pkg://")


def _run_config(job: Job, run: int, spec: FineTuneJobSpec) -> RunConfig:
    output = _place(spec.output.uri, job, run, spec.output.exact)
    checkpoints = _place(spec.checkpoint.uri, job, run, spec.output.exact) or output
    folder = _mounted(output) if output else names.SCRATCH_DIR
    return RunConfig.of(
        spec,
        job=JobIdentity(namespace=job.namespace, name=job.name, uid=job.uid, run=run, attempt=1),
        folder=folder,
        checkpoint_folder=f"{_mounted(checkpoints) if checkpoints else folder}/checkpoints",
        output_uri=output,
        checkpoint_uri=f"{checkpoints}/checkpoints" if checkpoints else None,
        volumes={claim: names.volume_mount(claim) for claim in sorted(claims(spec))},
    )


def _place(uri: str | None, job: Job, run: int, exact: bool) -> str | None:
    """The volume URI of this run's folder: below `uri` a folder of the job, from run 2 on one of the run.

    A re-run must not find the finished run's files, however exact the path.
    """
    if uri is None:
        return None
    below = [] if exact else [names.volume_folder(job.namespace, job.name, job.uid)]
    below += [f"run-{run}"] if run > 1 else []
    return "/".join([uri.rstrip("/"), *below])


def _mounted(uri: str) -> str:
    claim, path = split_volume_uri(uri)
    return f"{names.volume_mount(claim)}/{path}".rstrip("/")


def claims(spec: FineTuneJobSpec | RunConfig) -> dict[str, bool]:
    """Every claim that the run mounts, and whether it is written to."""
    read = [*spec.model.uris().values(), *(source.uri for _, source in sources_of(spec.dataset, spec.evaluation))]
    written = [uri for uri in (spec.output.uri, spec.checkpoint.uri) if uri]
    result = {split_volume_uri(uri)[0]: False for uri in read if uri.startswith("pvc://")}
    return result | {split_volume_uri(uri)[0]: True for uri in written}


def freeze(plan: Plan) -> dict[str, str]:
    """The plan as the files of the attempt's ConfigMap; later attempts of the run are made from them."""
    runtime = FineTuneRuntimeSpec(image=plan.image, env=list(plan.env), pod_template=plan.pod_template)
    return {
        names.RUN_CONFIG_FILE: json.dumps(plan.config.to_dict(), indent=1, sort_keys=True),
        names.RUNTIME_FILE: json.dumps(_without_empty(runtime.to_dict()), indent=1, sort_keys=True),
    }


def _without_empty(runtime: dict[str, Any]) -> dict[str, Any]:
    return {name: runtime[name] for name in ("image", "env", "podTemplate")}


def thaw(data: Mapping[str, str]) -> Plan:
    """The plan in a ConfigMap's files. Raises ValueError where they hold none."""
    runtime = FineTuneRuntimeSpec.model_validate_json(data.get(names.RUNTIME_FILE, ""), extra="ignore")
    config = RunConfig.model_validate_json(data.get(names.RUN_CONFIG_FILE, ""), extra="ignore")
    if runtime.image is None:
        raise ValueError(f"{names.RUNTIME_FILE} names no image")
    return Plan(config, runtime.image, tuple(runtime.env), runtime.pod_template)


def _invalid(reason: str, problems: list[Problem]) -> Failure:
    message = "; ".join(f"{problem.field}: {problem.reason}" for problem in problems)
    hint = "; ".join(dict.fromkeys(problem.hint for problem in problems if problem.hint))
    return failure(FailureClass.CONFIG_ERROR, reason, message, hint or "correct the field and apply the manifest again")


def _runtime_not_found(job: Job) -> Failure:
    name = wanted_runtime(job)
    return failure(
        FailureClass.CONFIG_ERROR,
        "RuntimeNotFound",
        f"spec.runtimeRef.name: there is no FineTuneRuntime {name} in {job.namespace} or the operator's namespace",
        f"apply FineTuneRuntime {name} and the job starts by itself, or name another: kubectl get finetuneruntimes -A",
    )


def _no_image() -> Failure:
    return failure(
        FailureClass.CONFIG_ERROR,
        "NoImage",
        "spec.trainer.image: no image is named by the job or by a FineTuneRuntime",
        f"set spec.trainer.image, or spec.image of a FineTuneRuntime that is named or called {names.DEFAULT_RUNTIME}",
    )
