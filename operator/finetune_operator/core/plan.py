"""`plan`: every decision about a run, made once, from the job and the runtimes that it builds on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from finetune_api import names
from finetune_api.base import Document
from finetune_api.evaluation import sources_of
from finetune_api.fields import OBJECT_STORES, split_volume_uri, uri_scheme
from finetune_api.job import FineTuneJobSpec
from finetune_api.manifest import Problem
from finetune_api.placement import EnvVar, Framework, PodTemplate, Scheduling, TrainerOverride
from finetune_api.policy import Elastic
from finetune_api.progress import Failure, FailureClass
from finetune_api.run import JobIdentity, RunConfig
from finetune_api.runtime import RuntimeVolume
from finetune_operator.core.job import Job, without_nulls
from finetune_operator.core.layers import Runtime, Runtimes, volumes_of
from finetune_operator.core.resolve import Invalid, resolved
from finetune_operator.core.text import cut, failure

__all__ = ["Plan", "Refused", "Runtime", "Runtimes", "claims", "freeze", "plan", "thaw", "wanted_runtime"]

REMOTE = frozenset({"hf", "s3", "gs", "az", "https"})
"""Schemes of models and data sets that are downloaded."""


@dataclass(frozen=True)
class Plan:
    """A run with every default applied: what its pods are told, and what they are made of."""

    config: RunConfig
    image: str
    trainer: TrainerOverride
    """The program in the training container: framework, command, arguments and environment."""
    pod_template: PodTemplate
    scheduling: Scheduling
    elastic: Elastic
    volumes: tuple[RuntimeVolume, ...]
    fetcher_image: str | None
    """Image of our trainer where the job brings another program; None where `image` is it, or there is none."""
    runtimes: str
    """The FineTuneRuntimes that the job builds on, each with the start of its hash."""
    excluded: tuple[str, ...] = ()
    """Nodes that this attempt must not use."""
    avoided: tuple[str, ...] = ()
    """Nodes that this attempt should rather not use."""

    @property
    def attempt(self) -> int:
        return self.config.job.attempt

    @property
    def name(self) -> str:
        """Name of every child of this attempt."""
        job = self.config.job
        return names.attempt_name(job.name, job.uid, job.run, job.attempt)

    @property
    def service(self) -> str:
        """Name of the headless Service that all attempts of this run share."""
        job = self.config.job
        return names.run_service_name(job.name, job.uid, job.run)

    @property
    def nodes(self) -> int:
        return self.config.resources.nodes

    @property
    def env(self) -> tuple[EnvVar, ...]:
        return tuple(self.trainer.env)

    @property
    def fetches(self) -> bool:
        """Whether models and data sets are downloaded into a shared folder before the pods start."""
        has_fetcher = not self.trainer.own_program or self.fetcher_image is not None
        remote = any(uri_scheme(uri) in REMOTE for uri in _read(self.config))
        return self.config.cache_folder is not None and has_fetcher and remote

    def with_attempt(self, attempt: int) -> Plan:
        job = self.config.job.model_copy(update={"attempt": attempt})
        return replace(self, config=self.config.model_copy(update={"job": job}))

    def with_nodes(self, nodes: int) -> Plan:
        resources = self.config.resources.model_copy(update={"nodes": nodes})
        return replace(self, config=self.config.model_copy(update={"resources": resources}))

    def with_handling(self, elastic: Elastic, scheduling: Scheduling) -> Plan:
        """With what may change during a run: how far it stretches, and who places its pods."""
        return replace(self, elastic=elastic, scheduling=scheduling)


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
    spec = resolved(job, runtimes)
    if isinstance(spec, Invalid):
        return Refused(_invalid(spec.reason, spec.problems))
    if spec.trainer.image is None:
        return Refused(_no_image())
    layers = runtimes.layers()
    return Plan(
        config=_run_config(job, run, spec),
        image=spec.trainer.image,
        trainer=spec.trainer,
        pod_template=spec.pod_template,
        scheduling=spec.scheduling,
        elastic=spec.elastic,
        volumes=volumes_of(layers),
        fetcher_image=_image_of(layers) if spec.trainer.own_program else None,
        runtimes=cut("; ".join(_identity(runtime) for runtime in layers)),
    )


def _image_of(layers: Sequence[Runtime]) -> str | None:
    images = [runtime.spec["image"] for runtime in layers if runtime.spec.get("image")]
    return images[-1] if images else None


def _identity(runtime: Runtime) -> str:
    text = json.dumps(without_nulls(runtime.spec), sort_keys=True, separators=(",", ":"))
    return f"{runtime.namespace}/{runtime.name} sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _run_config(job: Job, run: int, spec: FineTuneJobSpec) -> RunConfig:
    output = _place(spec.output.uri, job, run, spec.output.exact)
    on_volume = output if output and _is_volume(output) else None
    checkpoints = _place(spec.checkpoint.uri, job, run, spec.output.exact) or on_volume
    folder = _mounted(on_volume) if on_volume else names.SCRATCH_DIR
    config = RunConfig.of(
        spec,
        job=JobIdentity(namespace=job.namespace, name=job.name, uid=job.uid, run=run, attempt=1),
        folder=folder,
        checkpoint_folder=f"{_mounted(checkpoints) if checkpoints else folder}/checkpoints",
        output_uri=output,
        checkpoint_uri=f"{checkpoints}/checkpoints" if checkpoints else None,
        cache_folder=_mounted(spec.cache.uri) if spec.cache.uri else None,
    )
    mounts = {claim: names.volume_mount(claim) for claim in sorted(claims(config))}
    return config.model_copy(update={"volumes": mounts})


def _is_volume(uri: str) -> bool:
    return uri_scheme(uri) == "pvc"


def _place(uri: str | None, job: Job, run: int, exact: bool) -> str | None:
    """The URI of this run's folder: below `uri` a folder of the job, from run 2 on one of the run.

    A re-run must not find the finished run's files, however exact the path. A repository is taken as it is: it keeps
    what was there before as an older version.
    """
    if uri is None or not (_is_volume(uri) or uri_scheme(uri) in OBJECT_STORES):
        return uri
    below = [] if exact else [names.volume_folder(job.namespace, job.name, job.uid)]
    below += [f"run-{run}"] if run > 1 else []
    return "/".join([uri.rstrip("/"), *below])


def _mounted(uri: str) -> str:
    claim, path = split_volume_uri(uri)
    return f"{names.volume_mount(claim)}/{path}".rstrip("/")


def claims(config: RunConfig) -> dict[str, bool]:
    """Every claim that the run mounts, and whether it is written to."""
    outputs = (uri for uri in (config.output.uri, config.checkpoint.uri) if uri and _is_volume(uri))
    result = {split_volume_uri(uri)[0]: False for uri in _read(config) if _is_volume(uri)}
    result |= {split_volume_uri(uri)[0]: True for uri in outputs}
    if config.cache_folder:
        result[_claim_at(config.cache_folder)] = True
    return result


def _read(config: RunConfig) -> list[str]:
    """URIs of the model and of every source of rows."""
    return [*config.model.uris().values(), *(source.uri for _, source in sources_of(config.dataset, config.evaluation))]


def _claim_at(folder: str) -> str:
    return folder.removeprefix(f"{names.VOLUMES_DIR}/").partition("/")[0]


class _Frozen(Document):
    """What a plan holds beside its RunConfig. Another version of the operator may have written fewer fields."""

    image: str
    env: list[EnvVar] = []
    pod_template: PodTemplate = PodTemplate()
    framework: Framework | None = None
    command: list[str] = []
    args: list[str] = []
    scheduling: Scheduling = Scheduling()
    elastic: Elastic = Elastic()
    volumes: list[RuntimeVolume] = []
    fetcher_image: str | None = None
    runtimes: str = ""
    excluded: list[str] = []
    avoided: list[str] = []


def freeze(plan: Plan) -> dict[str, str]:
    """The plan as the files of the attempt's ConfigMap; later attempts of the run are made from them."""
    frozen = _Frozen(
        image=plan.image,
        env=plan.trainer.env,
        pod_template=plan.pod_template,
        framework=plan.trainer.framework,
        command=plan.trainer.command,
        args=plan.trainer.args,
        scheduling=plan.scheduling,
        elastic=plan.elastic,
        volumes=list(plan.volumes),
        fetcher_image=plan.fetcher_image,
        runtimes=plan.runtimes,
        excluded=list(plan.excluded),
        avoided=list(plan.avoided),
    )
    return {
        names.RUN_CONFIG_FILE: json.dumps(plan.config.for_any_trainer(), indent=1, sort_keys=True),
        names.RUNTIME_FILE: json.dumps(frozen.to_dict(), indent=1, sort_keys=True),
    }


def thaw(data: Mapping[str, str]) -> Plan:
    """The plan in a ConfigMap's files. Raises ValueError where they hold none."""
    frozen = _Frozen.model_validate_json(data.get(names.RUNTIME_FILE, ""), extra="ignore")
    config = RunConfig.model_validate_json(data.get(names.RUN_CONFIG_FILE, ""), extra="ignore")
    return Plan(
        config=config,
        image=frozen.image,
        trainer=TrainerOverride(
            image=frozen.image, framework=frozen.framework, command=frozen.command, args=frozen.args, env=frozen.env
        ),
        pod_template=frozen.pod_template,
        scheduling=frozen.scheduling,
        elastic=frozen.elastic,
        volumes=tuple(frozen.volumes),
        fetcher_image=frozen.fetcher_image,
        runtimes=frozen.runtimes,
        excluded=tuple(frozen.excluded),
        avoided=tuple(frozen.avoided),
    )


def _invalid(reason: str, problems: Sequence[Problem]) -> Failure:
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
