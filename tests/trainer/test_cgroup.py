"""Processors and memory kills are read from cgroups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.cgroup import available_processors, memory_kills, threads_per_process

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
