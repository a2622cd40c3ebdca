"""Builds the cluster's programs from their pinned Go modules into the cache."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.cluster.layout import Layout
from support.cluster.process import CommandFailed, run, say

GO_MODULES = Path(__file__).parent / "go"
KUBERNETES_VERSION = "v1.34.4"
# Without debugging information a cold build is a fifth faster.
COMMON_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")


@dataclass(frozen=True)
class Family:
    """Programs that are built from one go.mod."""

    name: str
    packages: tuple[str, ...]
    linker_flags: str = "-s -w"

    @property
    def programs(self) -> tuple[str, ...]:
        return tuple(package.rpartition("/")[2] for package in self.packages)


def _kubernetes() -> Family:
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    version = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    stamps = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in version.items())
    commands = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
    return Family("kubernetes", tuple(f"k8s.io/kubernetes/cmd/{c}" for c in commands), f"-s -w {stamps}")


FAMILIES = (
    _kubernetes(),
    Family(
        "addons", ("./coredns", "./pause", "helm.sh/helm/v3/cmd/helm", "github.com/yannh/kubeconform/cmd/kubeconform")
    ),
    Family("registry", ("./registry",)),
)
S3 = Family("s3", ("github.com/versity/versitygw/cmd/versitygw",))
"""No part of the cluster: a server for the tests of object stores."""
KUEUE = Family("kueue", ("sigs.k8s.io/kueue/cmd/kueue",))
"""Only for the tests that queue."""


def key(family: Family) -> str:
    """A hash over everything that decides the programs: modules, sources, flags."""
    digest = hashlib.sha256(repr((family, COMMON_FLAGS)).encode())
    root = GO_MODULES / family.name
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Programs:
    """The paths of the programs that were built."""

    directories: tuple[Path, ...]

    def __getitem__(self, name: str) -> Path:
        for directory in self.directories:
            if (directory / name).exists():
                return directory / name
        raise KeyError(f"{name} is none of the programs that support.cluster.build builds")


def programs(layout: Layout) -> Programs:
    """Where the programs are, or will be once they are built."""
    return Programs(tuple(_directory(layout, family) for family in FAMILIES))


def _directory(layout: Layout, family: Family) -> Path:
    return layout.binaries / f"{family.name}-{key(family)}"


def build(layout: Layout) -> Programs:
    """Builds what the cache lacks and returns where the programs are."""
    return Programs(tuple(built(layout, family) for family in FAMILIES))


def built(layout: Layout, family: Family) -> Path:
    """The directory with a family's programs, built if the cache lacks them."""
    directory = _directory(layout, family)
    if not directory.exists():
        say(f"building {', '.join(family.programs)}")
        layout.binaries.mkdir(parents=True, exist_ok=True)
        _build_family(family, directory)
    return directory


def module_directory(family: Family, module: str) -> Path:
    """Where the sources of a module of the family's go.mod lie, at the version that it names."""
    command = ["go", "-C", GO_MODULES / family.name, "mod", "download", "-json", module]
    return Path(json.loads(run(command, env={"GOFLAGS": "", "GOWORK": "off"}))["Dir"])


def _build_family(family: Family, directory: Path) -> None:
    """Builds beside the directory and renames, so that an interrupted build is never used."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".{family.name}-", dir=directory.parent))
    try:
        _go_build(family, unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _go_build(family: Family, output: Path) -> None:
    command = ["go", "build", *COMMON_FLAGS, "-ldflags", family.linker_flags, "-o", f"{output}/", *family.packages]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    done = subprocess.run(command, cwd=GO_MODULES / family.name, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CommandFailed(f"go build of {family.name} failed:\n{done.stderr[-4000:]}")
