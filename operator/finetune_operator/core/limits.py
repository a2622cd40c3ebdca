"""What a job may ask for: the limits of the platform's runtimes, held against what the job would have.

A limit that a runtime leaves out says nothing, so of several runtimes each one that says something must be content.
Where none says anything about service accounts and folders of nodes, there are none but the account `default`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.job import FineTuneJobSpec
from finetune_api.manifest import Problem
from finetune_api.runtime import Limits

Raw = Mapping[str, Any]

USUAL_ACCOUNT = "default"
ACCELERATOR = re.compile(r"gpu|tpu|/mig-|gaudi|neuron", re.IGNORECASE)
"""Names of the resources that maxGpus is about."""
COUNTED = "ask for GPUs by spec.resources.gpusPerNode, which limits.maxGpus counts"


@dataclass(frozen=True)
class Bound:
    """The limits of one runtime of the platform."""

    title: str
    limits: Limits

    def limit(self, name: str) -> str:
        return f"limits.{name} of {self.title}"


@dataclass(frozen=True)
class Layer:
    """What a job, or a runtime in its namespace, says itself. `place` is the path of `spec`, without nulls."""

    place: str
    spec: Raw

    @property
    def pod(self) -> Raw:
        pod: Raw = self.spec.get("podTemplate", {}).get("spec", {})
        return pod

    @property
    def pod_place(self) -> str:
        return f"{self.place}.podTemplate.spec"


Asked = Iterator[tuple[str, str]]
"""Pairs of the field that asks for something, and what it asks for."""


def problems_of_limits(
    spec: FineTuneJobSpec, layers: Sequence[Layer], bounds: Sequence[Bound], platform_images: set[str]
) -> list[Problem]:
    """Where `spec`, made of `layers` and of the platform's own runtimes, goes beyond a limit.

    `platform_images` are the images that the platform's runtimes name: they are allowed whatever `images` says.
    """
    return [
        *_of_hardware(spec, layers, bounds),
        *_of_images(layers, bounds, platform_images),
        *_of_accounts(layers, bounds),
        *_of_host_paths(layers, bounds),
    ]


def _of_hardware(spec: FineTuneJobSpec, layers: Sequence[Layer], bounds: Sequence[Bound]) -> Iterator[Problem]:
    grows = spec.elastic.max_nodes is not None
    nodes = spec.elastic.max_nodes or spec.resources.nodes
    field = "spec.elastic.maxNodes" if grows else "spec.resources.nodes"
    gpus = nodes * spec.resources.gpus_per_node
    for bound in bounds:
        most_nodes, most_gpus = bound.limits.max_nodes, bound.limits.max_gpus
        if most_nodes is not None and nodes > most_nodes:
            reason = f"{nodes} is more than {most_nodes}, {bound.limit('maxNodes')}"
            yield Problem(field, reason, f"use at most {most_nodes} nodes")
        if most_gpus is not None and gpus > most_gpus:
            asked = f"{field}, {nodes}, times spec.resources.gpusPerNode, {spec.resources.gpus_per_node}"
            reason = f"{gpus} GPUs ({asked}) are more than {most_gpus}, {bound.limit('maxGpus')}"
            yield Problem("spec.resources.gpusPerNode", reason, f"use at most {most_gpus} GPUs over all nodes")
        if most_gpus is not None:
            for layer in layers:
                yield from _uncounted(layer, bound, spec.resources.gpu_resource)


def _uncounted(layer: Layer, bound: Bound, gpu_resource: str) -> Iterator[Problem]:
    """GPUs that would come to the pod beside gpusPerNode."""
    why = f"is not counted by {bound.limit('maxGpus')}, {bound.limits.max_gpus}"
    if layer.pod.get("resourceClaims"):
        yield Problem(f"{layer.pod_place}.resourceClaims", f"a claim of devices {why}", COUNTED)
    for place, container in _containers(layer):
        for kind, amounts in container.get("resources", {}).items():
            if kind == "claims":
                continue
            for name, amount in amounts.items():
                if name == gpu_resource or ACCELERATOR.search(name):
                    yield Problem(f"{place}.resources.{kind}[{name}]", f"{amount} {why}", COUNTED)


def _of_images(layers: Sequence[Layer], bounds: Sequence[Bound], platform_images: set[str]) -> Iterator[Problem]:
    asked = [(place, image) for layer in layers for place, image in _images(layer) if image not in platform_images]
    for bound in bounds:
        patterns = bound.limits.images
        if patterns is None:
            continue
        allowed = _listed(patterns)
        hint = f"use an image that fits one of {allowed}" if patterns else "leave the image to the FineTuneRuntime"
        for place, image in asked:
            if not any(fits(pattern, image) for pattern in patterns):
                yield Problem(place, f"{image} fits none of {allowed}, {bound.limit('images')}", hint)


def _of_accounts(layers: Sequence[Layer], bounds: Sequence[Bound]) -> Iterator[Problem]:
    asked = [pair for layer in layers for pair in _accounts(layer) if pair[1] != USUAL_ACCOUNT]
    speaking = [bound for bound in bounds if bound.limits.service_account_names is not None]
    hint = "leave it out; who runs the operator can list it in limits.serviceAccountNames of a FineTuneRuntime"
    for place, account in asked:
        for bound in speaking:
            allowed = bound.limits.service_account_names or []
            if account not in allowed:
                reason = f"{account} is none of {_listed(allowed)}, {bound.limit('serviceAccountNames')}"
                yield Problem(place, reason, hint)
        if not speaking:
            yield Problem(place, f"{account} is not `{USUAL_ACCOUNT}`, {_unsaid('serviceAccountNames', bounds)}", hint)


def _of_host_paths(layers: Sequence[Layer], bounds: Sequence[Bound]) -> Iterator[Problem]:
    asked = [pair for layer in layers for pair in _host_paths(layer)]
    speaking = [bound for bound in bounds if "host_paths" in bound.limits.model_fields_set]
    hint = "use a volume claim; who runs the operator can list the folder in limits.hostPaths of a FineTuneRuntime"
    for place, path in asked:
        for bound in speaking:
            folders = bound.limits.host_paths
            if not any(is_below(path, folder) for folder in folders):
                yield Problem(place, f"{path} is not below {_listed(folders)}, {bound.limit('hostPaths')}", hint)
        if not speaking:
            yield Problem(place, f"{path} is a folder of the node, {_unsaid('hostPaths', bounds)}", hint)


def _unsaid(name: str, bounds: Sequence[Bound]) -> str:
    """That nobody allows it, told by the runtimes that could."""
    if not bounds:
        return f"and no FineTuneRuntime of the platform allows it by limits.{name}"
    return f"and limits.{name} is not set by {' or '.join(bound.title for bound in bounds)}"


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values) if values else "(none)"


def fits(pattern: str, text: str) -> bool:
    """Whether `text` is `pattern`, in which * stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def is_below(path: str, folder: str) -> bool:
    """Whether an absolute `path` is `folder` or lies in it, by whole names; never with `..` in it."""
    names, of_folder = _names(path), _names(folder)
    return path.startswith("/") and ".." not in names and names[: len(of_folder)] == of_folder


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def images_of(spec: Raw) -> set[str]:
    """Every image that a runtime names: its own, and those of its podTemplate."""
    return {image for _, image in _images(Layer("spec", spec))}


def _images(layer: Layer) -> Asked:
    if "image" in layer.spec:
        yield f"{layer.place}.image", layer.spec["image"]
    if "image" in layer.spec.get("trainer", {}):
        yield f"{layer.place}.trainer.image", layer.spec["trainer"]["image"]
    for place, container in _containers(layer):
        if "image" in container:
            yield f"{place}.image", str(container["image"])
    for place, source in _volumes(layer, lambda volume: volume.get("image", {}).get("reference")):
        yield f"{place}.image.reference", source


def _accounts(layer: Layer) -> Asked:
    """`serviceAccount` is the older name, which the API server still reads."""
    for field in ("serviceAccountName", "serviceAccount"):
        if layer.pod.get(field):
            yield f"{layer.pod_place}.{field}", str(layer.pod[field])


def _host_paths(layer: Layer) -> Asked:
    for place, path in _volumes(
        layer, lambda volume: volume["hostPath"].get("path", "") if "hostPath" in volume else None
    ):
        yield f"{place}.hostPath.path", path
    for index, volume in enumerate(layer.spec.get("volumes", [])):
        if "hostPath" in volume:
            yield f"{layer.place}.volumes[{index}].hostPath", volume["hostPath"]


def _containers(layer: Layer) -> Iterator[tuple[str, Raw]]:
    for field in ("containers", "initContainers"):
        for index, container in enumerate(layer.pod.get(field, [])):
            yield f"{layer.pod_place}.{field}[{index}]", container


def _volumes(layer: Layer, source: Callable[[Raw], str | None]) -> Asked:
    """The volumes of the podTemplate for which `source` gives something."""
    for index, volume in enumerate(layer.pod.get("volumes", [])):
        if (found := source(volume)) is not None:
            yield f"{layer.pod_place}.volumes[{index}]", str(found)
