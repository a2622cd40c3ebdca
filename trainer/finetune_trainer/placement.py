"""Where the ranks of this node run: how many, on which device, with how many threads, and what they are told."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.run import RunConfig
from finetune_trainer import handover
from finetune_trainer.cgroup import available_processors, threads_per_process
from finetune_trainer.errors import ConfigError, Unavailable
from finetune_trainer.record import kept_choices
from finetune_trainer.settings import Settings

log = logging.getLogger(__name__)
SPINS = "10000"
"""Of GNU's OpenMP, with which torch is built: about a tenth of a millisecond."""
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""torch then asks Linux for pages of 2 MiB for tensors of that size: fewer have to be zeroed and looked up."""


@dataclass(frozen=True)
class Placement:
    """The ranks of one node. `device` is `gpu` or `cpu`, `threads` those of each rank."""

    processes: int
    device: str
    threads: int


def place(config: RunConfig, settings: Settings, record: Mapping[str, Any] | None) -> Placement:
    """One rank a GPU, or as many as the manifest says. `record` is run.json of the first attempt, if there was one."""
    gpus = _gpus(config, settings)
    asked = config.resources.processes_per_node
    processes = max(1, gpus) if asked == "auto" else asked
    if gpus and processes > gpus:
        message = f"spec.resources.processesPerNode: {processes} processes cannot share {gpus} GPUs"
        raise ConfigError("TooFewGpus", message, f"use auto, or at most {gpus}")
    return Placement(processes, handover.GPU if gpus else handover.CPU, _threads(record, processes))


def _gpus(config: RunConfig, settings: Settings) -> int:
    """How many of the GPUs that the run asks for are here. A pod must have all of them; elsewhere fewer will do."""
    wanted = config.resources.gpus_per_node
    there = len(list(Path("/dev").glob("nvidia[0-9]*"))) if wanted else 0
    if there < wanted:
        message = f"the run asks for {wanted} GPUs on a node, {there} are here"
        if settings.pod_name is not None:
            raise Unavailable("GpuMissing", message, "see the device plugin of this node")
        log.warning(message)
    return min(wanted, there)


def _threads(record: Mapping[str, Any] | None, processes: int) -> int:
    """Threads of each process: as in the first attempt where as many processes share a machine that has as many."""
    available = threads_per_process(available_processors(), processes)
    kept = kept_choices(record)
    if record is None or kept is None or kept.processes != processes * record["config"]["resources"]["nodes"]:
        return available
    return min(kept.threads, available)


def environments(placement: Placement, settings: Settings, config: RunConfig) -> list[dict[str, str]]:
    """The environment of each rank on this node."""
    processes, threads = placement.processes, str(placement.threads)
    common = handover.offline_environment(os.environ) | {
        names.ENV_RUN_CONFIG: str(settings.run_config),
        handover.ENV_DEVICE: placement.device,
        handover.ENV_SUPERVISOR: str(os.getpid()),
        "OMP_NUM_THREADS": threads,
        **tuning(os.environ),
        "RAYON_NUM_THREADS": threads,
        "WORLD_SIZE": str(processes * config.resources.nodes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": settings.master_address,
        "MASTER_PORT": str(_port(settings, config)),
    }
    first = settings.node_rank * processes
    return [common | {"RANK": str(first + local), "LOCAL_RANK": str(local)} for local in range(processes)]


def tuning(given: Mapping[str, str]) -> dict[str, str]:
    """How torch uses memory and processors, unless the environment says otherwise."""
    return {LARGE_PAGES: given.get(LARGE_PAGES, "1"), **_waiting(given)}


def _waiting(given: Mapping[str, str]) -> dict[str, str]:
    """How threads wait for each other between two operations: as the environment says, or awake for a moment.

    Threads that sleep at once have to be woken for each operation of a small model, and those that stay awake take the
    processor from a busy neighbour. docs/benchmarks.md has what either costs.
    """
    if "OMP_WAIT_POLICY" in given or "GOMP_SPINCOUNT" in given:
        return {name: given[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in given}
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": SPINS}


def _port(settings: Settings, config: RunConfig) -> int:
    """A port that all nodes know; on a single one, any that is free.

    Each run of a cross-validation has its own, so that none meets a process of the one before.
    """
    known = settings.master_port or (names.MASTER_PORT if config.resources.nodes > 1 else None)
    if known is None:
        return _free_port()
    return known if config.fold is None else known + 1 + config.fold.index


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
