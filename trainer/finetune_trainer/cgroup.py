"""How many processors and how much memory this container may use, and what the kernel killed for want of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""In each version of the hierarchy: the limit, what is used, and what of that are files, in memory.stat."""
NO_LIMIT = 1 << 60
"""Version 1 says "none" by a number close to this, or above."""


def available_processors(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """Processors by affinity and by the quota of every cgroup above us (v1 and v2), at least one."""
    quotas = [quota for quota in (_quota(folder) for folder in _folders(root, own, "cpu")) if quota is not None]
    return max(1, int(min([float(len(os.sched_getaffinity(0))), *quotas])))


def memory_limit(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int | None:
    """The least limit of memory of every cgroup above us in bytes; None where there is none."""
    names = ("memory.max", "memory.limit_in_bytes")
    said = [line for folder in _folders(root, own, "memory") for name in names for line in _lines(folder / name)]
    return min((int(line) for line in said if line.isdecimal() and int(line) < NO_LIMIT), default=None)


def available_memory(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS, machine: Path = MEMORY) -> int | None:
    """Bytes that can still be taken: by the machine, and by the limit of every cgroup above us; None if nobody tells.

    What a cgroup holds of files that nobody used lately makes room when it is wanted.
    """
    rooms = [int(line.split()[1]) << 10 for line in _lines(machine) if line.startswith("MemAvailable:")]
    for folder in _folders(root, own, "memory"):
        for limit, usage, idle in MEMORY_FILES:
            said, used = _number(folder / limit), _number(folder / usage)
            if said is not None and said < NO_LIMIT and used is not None:
                rooms.append(max(0, said - used + _memory_stat(folder, idle)))
    return min(rooms, default=None)


def threads_per_process(processors: int, processes: int) -> int:
    return max(1, processors // processes)


def memory_kills(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """How often the kernel killed a process in our cgroup because memory ran out; 0 where it does not tell."""
    for folder in _folders(root, own, "memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in _lines(folder / name):
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def _folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Our cgroup and its parents, in version 2 and in version 1 of the hierarchy, the nearest first."""
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        folder = base / path.lstrip("/")
        while True:
            yield folder
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent


def _quota(folder: Path) -> float | None:
    if lines := _lines(folder / "cpu.max"):
        quota, period = lines[0].split()
        return None if quota == "max" else int(quota) / int(period)
    quota_lines, period_lines = _lines(folder / "cpu.cfs_quota_us"), _lines(folder / "cpu.cfs_period_us")
    if quota_lines and period_lines and int(quota_lines[0]) > 0:
        return int(quota_lines[0]) / int(period_lines[0])
    return None


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _memory_stat(folder: Path, key: str) -> int:
    return next((int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.split()[0] == key), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
