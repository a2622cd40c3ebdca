"""How much memory there is: of a pod as the manifest says, of this machine, of the GPUs here."""

from __future__ import annotations

import re
from pathlib import Path

from finetune_api.placement import Resources
from finetune_trainer.cgroup import memory_limit
from finetune_trainer.planning.footprint import GIB, Room

MEMINFO = Path("/proc/meminfo")
UNITS = {"": 1.0, "m": 1e-3} | {unit: 10.0**power for unit, power in zip("kMGTP", range(3, 18, 3), strict=True)}
UNITS |= {f"{unit}i": 2.0**power for unit, power in zip("KMGTP", range(10, 60, 10), strict=True)}
SLICE = re.compile(r"/mig-\d+g\.(\d+)gb")
"""NVIDIA's names of the parts of a GPU say how much memory they have."""


def room_of(resources: Resources, gpu_memory: float | None) -> Room:
    """What each GPU and each node has; `gpu_memory` is what a person says of a GPU, in GiB."""
    device, host, told = None, None, {}
    if resources.gpus_per_node:
        device, told["device"] = _device(resources, gpu_memory)
    if resources.memory is not None:
        host, told["host"] = quantity(resources.memory), f"spec.resources.memory: {resources.memory}"
    elif resources.nodes == 1:
        host, told["host"] = machine_memory(), "this machine"
    return Room(device, host, told)


def _device(resources: Resources, gpu_memory: float | None) -> tuple[int | None, str]:
    if gpu_memory is not None:
        return round(gpu_memory * GIB), "--gpu-memory"
    if part := SLICE.search(resources.gpu_resource):
        return int(part[1]) * GIB, f"spec.resources.gpuResource: {resources.gpu_resource}"
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory), torch.cuda.get_device_name(0)
    return None, "no GPU here; say how much memory each has with --gpu-memory GiB"


def machine_memory(meminfo: Path = MEMINFO) -> int | None:
    """What this container may use, or what the machine has."""
    line = next((line for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:")), None)
    total = None if line is None else int(line.split()[1]) * 1024
    known = [size for size in (memory_limit(), total) if size is not None]
    return min(known, default=None)


def quantity(text: str) -> int:
    """Bytes of a quantity of Kubernetes such as 16Gi, which the manifest has checked."""
    number = text.rstrip("mkMGTPKi")
    return int(float(number) * UNITS[text.removeprefix(number)])
