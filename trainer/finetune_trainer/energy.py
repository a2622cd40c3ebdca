"""The energy that a run took, where the hardware counts it; never an estimate.

`rapl`: the processors and memory of the whole machine, from the kernel's powercap counters, which mostly only root may
read. `nvml`: the GPUs that the run uses, from the counters of their driver.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.report.snapshot import Snapshot

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
INTERVAL = 10.0
"""Seconds between two readings: a busy machine's counter starts anew every few minutes."""

Energy = Mapping[str, float]
"""Joules by source."""


class Counter:
    """A counter in joules that only grows, and starts anew at `wraps_at` where there is such a value."""

    def __init__(self, read: Callable[[], float], wraps_at: float | None = None) -> None:
        self._read = read
        self._wraps_at = wraps_at
        self._last = read()
        self.joules = 0.0

    def sample(self) -> None:
        now = self._read()
        grown = now - self._last
        if grown < 0:
            if self._wraps_at is None:
                raise OSError("a counter of energy was reset")
            grown += self._wraps_at
        self.joules += grown
        self._last = now


class Meter:
    """A sink that reads its counters as time goes by. A source of which one cannot be read any more is not known."""

    def __init__(self, sources: Mapping[str, Sequence[Counter]], clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = dict(sources)
        self._clock = clock
        self._sampled = clock()

    def update(self, snapshot: Snapshot) -> None:  # noqa: ARG002
        if self._clock() - self._sampled >= INTERVAL:
            self.read()

    def close(self) -> None:
        return None

    def read(self) -> dict[str, float]:
        """What was counted since the meter was made."""
        self._sampled = self._clock()
        for name, counters in list(self._sources.items()):
            try:
                for counter in counters:
                    counter.sample()
            except (OSError, ValueError):
                del self._sources[name]
        return {name: sum(counter.joules for counter in counters) for name, counters in self._sources.items()}


def together(parts: Iterable[Energy]) -> dict[str, float]:
    """The sum of several processes or attempts, of the sources that all of them know."""
    first, *others = parts
    return {
        name: value + sum(other[name] for other in others)
        for name, value in first.items()
        if all(name in other for other in others)
    }


def described(energy: Energy) -> dict[str, Any]:
    """As evaluation.json has it; nothing where nothing is known."""
    if not energy:
        return {}
    return {"energyJoules": round(sum(energy.values()), 1), "energySource": "+".join(sorted(energy))}


def open_meter(gpu: int | None, first_of_node: bool, powercap: Path = POWERCAP) -> Meter:
    """The meter of one process: its GPU, and in the first process of a node the machine's counters."""
    sources: dict[str, Sequence[Counter]] = {}
    if (machine := rapl_counters(powercap)) is not None:
        sources["rapl"] = machine if first_of_node else []
    if gpu is not None and (counter := _gpu_counter(gpu)) is not None:
        sources["nvml"] = [counter]
    return Meter(sources)


def rapl_counters(powercap: Path) -> list[Counter] | None:
    """The packages, and the memory that is counted beside them; None where they cannot be read.

    Cores are part of their package, and `psys` has the packages in it.
    """
    try:
        zones = [(zone, (zone / "name").read_text().strip()) for zone in sorted(powercap.glob("intel-rapl:*"))]
        found = [_zone(zone) for zone, name in zones if name.startswith("package") or name == "dram"]
    except (OSError, ValueError):
        return None
    return found or None


def _zone(folder: Path) -> Counter:
    most = int((folder / "max_energy_range_uj").read_text()) / 1e6
    return Counter(lambda: int((folder / "energy_uj").read_text()) / 1e6, most)


def _gpu_counter(number: int) -> Counter | None:
    import torch

    try:
        library = ctypes.CDLL(NVML)
    except OSError:
        return None
    return nvml_counter(library, f"GPU-{torch.cuda.get_device_properties(number).uuid}")


def nvml_counter(library: Any, uuid: str) -> Counter | None:
    """The counter of a GPU; None where its driver has none, as before Volta and for a part of a GPU (MIG)."""
    handle, value = ctypes.c_void_p(), ctypes.c_ulonglong()

    def read() -> float:
        if code := library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)):
            raise OSError(f"the driver does not tell the energy of {uuid}: {code}")
        return value.value / 1000

    try:
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
            return None
        return Counter(read)
    except OSError:
        return None
