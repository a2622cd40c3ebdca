"""The machine that a run works on, as run.json tells it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from finetune_trainer.cgroup import available_processors, memory_limit

ROOT = Path("/")


def environment(uses_gpu: bool, root: Path = ROOT) -> dict[str, Any]:
    """Python, system, processor, memory and, if they are used, the GPUs of this node."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(root),
        "cores": available_processors(),
        "memoryBytes": memory_bytes(root),
        "gpus": _gpus() if uses_gpu else [],
    }


def processor_name(root: Path = ROOT) -> str:
    """The model's name as the kernel tells it; the architecture where it tells none, as on ARM."""
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.machine()


def memory_bytes(root: Path = ROOT) -> int | None:
    """What this container may use: the machine's memory, or the least limit above us."""
    known = [limit] if (limit := memory_limit(root / "sys/fs/cgroup", root / "proc/self/cgroup")) else []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            known.append(int(line.split()[1]) * 1024)
    return min(known, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _gpus() -> list[dict[str, Any]]:
    import torch

    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memoryBytes": gpu.total_memory} for gpu in found]
