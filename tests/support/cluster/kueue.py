"""Kueue's real manager in the cluster, built from its Go module and installed with its own chart.

Its webhooks would stand in the way of every Job of the cluster, so they see only the namespaces that carry LABEL, and
`remove` takes away all that `install` brought.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from support.cluster import buildah, registry
from support.cluster.access import Access, split_reference
from support.cluster.build import KUEUE, built, key, module_directory
from support.cluster.layout import REGISTRY, Layout
from support.cluster.process import CommandFailed, ComponentFailed

LABEL = {"finetune.test/kueue": "true"}
NAMESPACE = "kueue-system"
RELEASE = "kueue"
REPOSITORY = "finetune-kueue"
MODULE = "sigs.k8s.io/kueue"
SELECTOR = "--selector=" + ",".join(f"{name}={value}" for name, value in LABEL.items())
# What refers comes before what it refers to, as Kueue keeps what is in use.
OBJECTS = ("workloads", "localqueues", "clusterqueues", "resourceflavors", "workloadpriorityclasses")


def is_installed(cluster: Access) -> bool:
    """Whether Kueue's kinds are known to the cluster."""
    return cluster.get("customresourcedefinition", "clusterqueues.kueue.x-k8s.io") is not None


def image(layout: Layout) -> str:
    """The reference of the manager's image, which is built and pushed where the registry lacks it."""
    repository_and_tag = f"{REPOSITORY}:{key(KUEUE)}"
    if not registry.holds(*split_reference(repository_and_tag)):
        name = f"localhost/{repository_and_tag}"
        with tempfile.TemporaryDirectory() as directory:
            program = built(layout, KUEUE) / "kueue"
            buildah.build_program(layout, name, program, Path(directory), installed_as="manager")
        buildah.push(layout, name, repository_and_tag)
    return f"{REGISTRY}/{repository_and_tag}"


def install(cluster: Access, reference: str) -> None:
    """Installs or upgrades the manager, and waits until its webhooks answer; raises ComponentFailed."""
    with tempfile.TemporaryDirectory() as directory:
        values = Path(directory, "values.yaml")
        values.write_text(yaml.safe_dump(_values(reference)))
        where = [f"--namespace={NAMESPACE}", "--create-namespace", f"--values={values}"]
        try:
            with _chart() as chart:
                cluster.helm("upgrade", "--install", RELEASE, str(chart), *where, "--wait", "--timeout=2m")
        except CommandFailed as error:
            raise ComponentFailed(f"{error}\n{cluster.describe(NAMESPACE)}") from error


def remove(cluster: Access) -> None:
    """Removes Kueue with its objects and the namespaces that it sees; does nothing where it is not installed."""
    if not is_installed(cluster):
        return
    # While the manager still runs: it alone lets go of what it keeps.
    cluster.kubectl("delete", "namespaces", SELECTOR, "--timeout=2m")
    for kind in OBJECTS:
        scope = ["--all-namespaces"] if kind in ("workloads", "localqueues") else []
        cluster.kubectl("delete", f"{kind}.kueue.x-k8s.io", "--all", *scope, "--timeout=1m")
    cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--ignore-not-found", "--wait", "--timeout=2m")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=2m")


@contextmanager
def _chart() -> Iterator[Path]:
    """The module's chart without the visibility API, which would need an aggregation layer that the cluster lacks."""
    with tempfile.TemporaryDirectory() as directory:
        chart = Path(directory, "kueue")
        without = shutil.ignore_patterns("visibility", "visibility-apf")
        shutil.copytree(module_directory(KUEUE, MODULE) / "charts" / "kueue", chart, ignore=without)
        yield chart


def _values(reference: str) -> dict[str, Any]:
    """One small manager that looks at Jobs only."""
    repository, tag = split_reference(reference)
    manager = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "resources": {"requests": {"cpu": "0", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "podSecurityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "controllerManager": {
            "featureGates": [{"name": "VisibilityOnDemand", "enabled": False}],
            "manager": manager,
            "readinessProbe": {"initialDelaySeconds": 1},
        },
        "managerConfig": {"controllerManagerConfigYaml": yaml.safe_dump(_configuration())},
    }


def _configuration() -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta1",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": ":8081"},
        "metrics": {"bindAddress": ":8443"},
        "webhook": {"port": 9443},
        "leaderElection": {"leaderElect": False},
        "managedJobsNamespaceSelector": {"matchLabels": LABEL},
        "integrations": {"frameworks": ["batch/job"]},
    }
