"""Processors and memory kills are read from cgroups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.cgroup import available_memory, available_processors, memory_kills, threads_per_process
from finetune_trainer.placement import tuning

ALL = len(os.sched_getaffinity(0))


def lay_out(root: Path, files: dict[str, str], own: str) -> tuple[Path, Path]:
    """A /sys/fs/cgroup with these files, and a /proc/self/cgroup."""
    for name, text in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "own").write_text(own)
    return root / "cgroup", root / "own"


@pytest.mark.parametrize(
    ("files", "own", "processors"),
    [
        pytest.param({}, "", ALL, id="no cgroups"),
        pytest.param({"cpu.max": "max 100000\n"}, "0::/\n", ALL, id="v2 without a limit"),
        pytest.param({"cpu.max": "100000 100000\n"}, "0::/\n", 1, id="v2"),
        pytest.param({"cpu.max": "150000 100000\n"}, "0::/\n", 1, id="v2, one and a half"),
        pytest.param({"cpu.max": "50000 100000\n"}, "0::/\n", 1, id="v2, never none"),
        pytest.param(
            {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 1, id="v2, a parent's limit"
        ),
        pytest.param(
            {"cpu/pod/cpu.cfs_quota_us": "100000\n", "cpu/pod/cpu.cfs_period_us": "100000\n"},
            "5:memory:/pod\n4:cpu:/pod\n",
            1,
            id="v1",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/\n", ALL, id="v1, no limit"
        ),
    ],
)
def test_available_processors(files: dict[str, str], own: str, processors: int, tmp_path: Path) -> None:
    assert available_processors(*lay_out(tmp_path, files, own)) == processors


@pytest.mark.parametrize(
    ("processors", "processes", "threads"),
    [pytest.param(8, 2, 4, id="shared"), pytest.param(2, 4, 1, id="at least one"), pytest.param(7, 2, 3, id="whole")],
)
def test_threads_per_process(processors: int, processes: int, threads: int) -> None:
    assert threads_per_process(processors, processes) == threads


@pytest.mark.parametrize(
    ("files", "own", "kills"),
    [
        pytest.param({}, "", 0, id="unknown"),
        pytest.param({"pod/memory.events": "low 0\noom 3\noom_kill 2\n"}, "0::/pod\n", 2, id="v2"),
        pytest.param({"memory/pod/memory.oom_control": "under_oom 0\noom_kill 1\n"}, "3:memory:/pod\n", 1, id="v1"),
    ],
)
def test_memory_kills(files: dict[str, str], own: str, kills: int, tmp_path: Path) -> None:
    assert memory_kills(*lay_out(tmp_path, files, own)) == kills


MACHINE = "MemTotal:       16 kB\nMemAvailable:   8 kB\n"
V2 = {"pod/memory.max": "6000\n", "pod/memory.current": "5000\n"}


@pytest.mark.parametrize(
    ("files", "own", "machine", "available"),
    [
        pytest.param({}, "", "", None, id="unknown"),
        pytest.param({}, "", MACHINE, 8192, id="the machine's"),
        pytest.param(V2, "0::/pod\n", MACHINE, 1000, id="v2"),
        pytest.param(
            {**V2, "pod/memory.stat": "anon 1\ninactive_file 3000\n"}, "0::/pod\n", MACHINE, 4000, id="v2, with files"
        ),
        pytest.param({**V2, "pod/memory.max": "max\n"}, "0::/pod\n", MACHINE, 8192, id="v2 without a limit"),
        pytest.param(
            {
                "memory/pod/memory.limit_in_bytes": "4000\n",
                "memory/pod/memory.usage_in_bytes": "3000\n",
                "memory/pod/memory.stat": "total_inactive_file 500\n",
            },
            "3:memory:/pod\n",
            MACHINE,
            1500,
            id="v1",
        ),
    ],
)
def test_available_memory(files: dict[str, str], own: str, machine: str, available: int | None, tmp_path: Path) -> None:
    (tmp_path / "machine").write_text(machine)
    assert available_memory(*lay_out(tmp_path, files, own), tmp_path / "machine") == available


LARGE, SMALL = {"THP_MEM_ALLOC_ENABLE": "1"}, {"THP_MEM_ALLOC_ENABLE": "0"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"PATH": "/bin"}, LARGE | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, LARGE | {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "0"}, LARGE | {"GOMP_SPINCOUNT": "0"}),
        (SMALL, SMALL | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}),
    ],
    ids=["nothing said", "policy", "count", "pages"],
)
def test_threads_wait_awake_for_a_moment_and_pages_are_large_if_the_environment_does_not_say_how(
    given: dict[str, str], told: dict[str, str]
) -> None:
    assert tuning(given) == told
