"""The Debian packages that the cluster runs on, installed without starting a service."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cluster.process import run

PACKAGES = (
    "buildah",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "debootstrap",
    "etcd-server",
    "git",
    "iproute2",
    "iptables",
    "prometheus",
    "runc",
    "zstd",
)
POLICY = Path("/usr/sbin/policy-rc.d")


def missing_packages() -> tuple[str, ...]:
    """Those of PACKAGES that are not installed; all of them where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        return PACKAGES
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *PACKAGES]
    lines = subprocess.run(query, text=True, capture_output=True).stdout.splitlines()
    installed = {name for name, status in (line.split() for line in lines) if status == "installed"}
    return tuple(name for name in PACKAGES if name not in installed)


def install_packages() -> None:
    """Installs what is missing with apt-get; needs root."""
    missing = missing_packages()
    if not missing:
        return
    noninteractive = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    with _no_services_started():
        if subprocess.run(install, env=noninteractive, capture_output=True).returncode:
            run(["apt-get", "update"])
            run(install, env={"DEBIAN_FRONTEND": "noninteractive"})


@contextmanager
def _no_services_started() -> Iterator[None]:
    """Debian's own switch: while policy-rc.d exits 101, an installation starts no service."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(POLICY.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    try:
        yield
    finally:
        POLICY.unlink()
