"""A job as this machine carries it out: FineTuneJob → RunConfig. Pure; paths are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finetune_api.evaluation import sources_of
from finetune_api.fields import OBJECT_STORES, split_volume_uri, uri_scheme
from finetune_api.job import FineTuneJob, FineTuneJobSpec
from finetune_api.manifest import InvalidManifest, Problem
from finetune_api.names import volume_folder
from finetune_api.run import JobIdentity, RunConfig

LOCAL_UID = "local"
OWN_PROGRAM = Problem(
    "spec.trainer",
    "names a program of its own, which needs its image",
    "apply the manifest to a cluster, or start that program yourself; `finetune run` runs our trainer",
)


def run_config(
    job: FineTuneJob, folder: Path, base_folder: Path, volumes: Mapping[str, Path], processes: int | None
) -> RunConfig:
    """The run that `job` means on one machine.

    `folder` gets the run's files, `./path` is relative to `base_folder`, and `volumes` says where claims lie.
    Raises InvalidManifest for a job whose program is not ours.
    """
    spec = job.spec
    if spec.trainer.own_program:
        raise InvalidManifest([OWN_PROGRAM])
    resources = spec.resources.model_copy(
        update={"nodes": 1, "processes_per_node": processes or spec.resources.processes_per_node}
    )
    return RunConfig.of(
        spec,
        job=JobIdentity(namespace=job.metadata.namespace, name=job.metadata.name, uid=LOCAL_UID),
        resources=resources,
        folder=str(folder),
        checkpoint_folder=str(folder / "checkpoints"),
        output_uri=_pushed_to(job),
        volumes={claim: str(path) for claim, path in volumes.items()},
        cache_folder=_cache_folder(spec, volumes),
        hang_timeout_seconds=spec.run_policy.hang_timeout_seconds,
        base_folder=str(base_folder),
    )


def _pushed_to(job: FineTuneJob) -> str | None:
    """The place of spec.output.uri as a cluster would have it; None for a volume: its files are in the run's folder."""
    uri, exact = job.spec.output.uri, job.spec.output.exact
    if uri is None or uri_scheme(uri) == "pvc":
        return None
    if exact or uri_scheme(uri) not in OBJECT_STORES:
        return uri
    return f"{uri.rstrip('/')}/{volume_folder(job.metadata.namespace, job.metadata.name, LOCAL_UID)}"


def _cache_folder(spec: FineTuneJobSpec, volumes: Mapping[str, Path]) -> str | None:
    """Where spec.cache.uri leads to; None where nothing is to be kept."""
    if spec.cache.uri is None:
        return None
    claim, path = split_volume_uri(spec.cache.uri)
    return str(volumes[claim] / path)


def claims(spec: FineTuneJobSpec) -> list[str]:
    """Claims that the job reads, in the order of the manifest; the one of its cache last."""
    read = [*spec.model.uris().values(), *(source.uri for _, source in sources_of(spec.dataset, spec.evaluation))]
    read += [spec.cache.uri] if spec.cache.uri else []
    return list(dict.fromkeys(split_volume_uri(uri)[0] for uri in read if uri.startswith("pvc://")))


def volume_folders(spec: FineTuneJobSpec, options: list[str], here: Path) -> dict[str, Path]:
    """Folder of each claim that the job reads: from `claim=DIR` options, else `./volumes/claim`.

    Raises InvalidManifest for an option that is not of that form or names a claim that the job does not read.
    """
    given = dict(_split_option(option) for option in options)
    needed = claims(spec)
    for claim in given.keys() - set(needed):
        reads = f"it reads {', '.join(needed)}" if needed else "it reads no pvc:// URI"
        raise InvalidManifest([Problem(f"--volume {claim}", "the job does not read this claim", reads)])
    return {claim: (here / given.get(claim, Path("volumes", claim))).absolute() for claim in needed}


def _split_option(option: str) -> tuple[str, Path]:
    claim, separator, folder = option.partition("=")
    if not (claim and separator and folder):
        raise InvalidManifest([Problem(f"--volume {option}", "has no folder", "write --volume claim=DIR")])
    return claim, Path(folder)
