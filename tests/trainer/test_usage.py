"""What a run takes and where it works is read from the machine, and told only where it is known."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.cgroup import memory_limit
from finetune_trainer.energy import Counter, Meter, described, nvml_counter, open_meter, rapl_counters, together
from finetune_trainer.environment import environment, memory_bytes, processor_name
from finetune_trainer.report.snapshot import Snapshot

GIB = 1 << 30
CPUINFO = "processor\t: 0\nmodel name\t: Example 9000 @ 2.10GHz\nflags\t: fpu\n\nprocessor\t: 1\nmodel name\t: Other\n"


def write(root: Path, **contents: str) -> Path:
    """Files below `root`; `__` in a name is a slash."""
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_processors_name_is_the_kernels(tmp_path: Path) -> None:
    assert processor_name(write(tmp_path, proc__cpuinfo=CPUINFO)) == "Example 9000 @ 2.10GHz"


def test_a_processor_without_a_name_is_told_by_its_architecture(tmp_path: Path) -> None:
    assert processor_name(write(tmp_path, proc__cpuinfo="processor\t: 0\nCPU part\t: 0xd0c\n")) != ""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 16 * GIB, id="the machine's"),
        pytest.param({"proc__self__cgroup": "0::/pod\n", "sys__fs__cgroup__pod__memory.max": f"{GIB}\n"}, GIB, id="v2"),
        pytest.param(
            {"proc__self__cgroup": "0::/pod\n", "sys__fs__cgroup__pod__memory.max": "max\n"}, 16 * GIB, id="no limit"
        ),
        pytest.param(
            {
                "proc__self__cgroup": "0::/pod/box\n",
                "sys__fs__cgroup__pod__memory.max": f"{GIB}\n",
                "sys__fs__cgroup__pod__box__memory.max": f"{2 * GIB}\n",
            },
            GIB,
            id="of the group above",
        ),
        pytest.param(
            {
                "proc__self__cgroup": "4:memory:/pod\n",
                "sys__fs__cgroup__memory__pod__memory.limit_in_bytes": f"{3 * GIB}\n",
                "sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n",
            },
            3 * GIB,
            id="v1, where no limit is a number",
        ),
    ],
)
def test_memory_is_what_the_container_may_use(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    root = write(tmp_path, proc__meminfo=f"MemTotal:  {16 * GIB // 1024} kB\nMemFree: 1 kB\n", **files)
    assert memory_bytes(root) == expected
    assert memory_limit(root / "nothing", root / "nothing") is None


def test_this_machine_has_a_description() -> None:
    told = environment(uses_gpu=False)
    assert set(told) == {"python", "platform", "processor", "cores", "memoryBytes", "gpus"}
    assert (told["cores"] > 0, told["memoryBytes"] > 0, told["gpus"]) == (True, True, [])


def zones(root: Path, **energy: int) -> Path:
    """Powercap's folder with a zone of each name, which has counted that many microjoules of at most a million."""
    for place, (name, value) in enumerate(energy.items()):
        zone = root / f"intel-rapl:{place}"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "name").write_text(f"{name.replace('_', '-')}\n")
        (zone / "energy_uj").write_text(f"{value}\n")
        (zone / "max_energy_range_uj").write_text("1000000\n")
    return root


def test_packages_and_memory_are_counted_and_what_is_part_of_them_is_not(tmp_path: Path) -> None:
    meter = open_meter(None, True, zones(tmp_path, package_0=0, core=0, dram=0, package_1=0, psys=0))
    zones(tmp_path, package_0=500_000, core=400_000, dram=100_000, package_1=200_000, psys=900_000)
    assert meter.read() == {"rapl": pytest.approx(0.8)}


def test_a_counter_that_starts_anew_goes_on(tmp_path: Path) -> None:
    meter = open_meter(None, True, zones(tmp_path, package_0=900_000))
    zones(tmp_path, package_0=100_000)
    assert meter.read() == {"rapl": pytest.approx(0.2)}
    zones(tmp_path, package_0=150_000)
    assert meter.read() == {"rapl": pytest.approx(0.25)}


def test_only_the_first_process_of_a_node_counts_its_machine(tmp_path: Path) -> None:
    folder = zones(tmp_path, package_0=0)
    first, second = open_meter(None, True, folder), open_meter(None, False, folder)
    zones(tmp_path, package_0=300_000)
    assert together([first.read(), second.read()]) == {"rapl": pytest.approx(0.3)}


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert rapl_counters(tmp_path) is None
    folder = zones(tmp_path, package_0=0, package_1=0)
    (folder / "intel-rapl:1" / "energy_uj").unlink()
    assert rapl_counters(folder) is None
    assert open_meter(None, True, folder).read() == {}


def test_a_counter_that_vanishes_takes_its_source_with_it(tmp_path: Path) -> None:
    meter = open_meter(None, True, zones(tmp_path, package_0=0))
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert (meter.read(), described(meter.read())) == ({}, {})


def test_a_meter_reads_often_enough_for_counters_that_start_anew(tmp_path: Path) -> None:
    """Three times around in a run that says nothing but its steps."""
    now: Iterator[float] = iter(range(0, 1000, 6))
    folder = zones(tmp_path, package_0=0)
    counters = rapl_counters(folder)
    assert counters is not None
    meter = Meter({"rapl": counters}, lambda: next(now))
    for turn in range(1, 31):
        zones(tmp_path, package_0=turn * 100_000 % 1_000_000)
        meter.update(Snapshot(step=turn))
    assert meter.read() == {"rapl": pytest.approx(3.0)}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([{"rapl": 1.0}], {"rapl": 1.0}, id="one"),
        pytest.param([{"rapl": 1.0}, {"rapl": 2.0}], {"rapl": 3.0}, id="two"),
        pytest.param([{"rapl": 1.0, "nvml": 4.0}, {"nvml": 5.0}], {"nvml": 9.0}, id="what all know"),
        pytest.param([{"rapl": 1.0}, {}], {}, id="one does not know"),
    ],
)
def test_parts_that_are_not_all_known_have_no_sum(parts: list[dict[str, float]], expected: dict[str, float]) -> None:
    assert together(parts) == expected


def test_energy_is_told_with_its_source() -> None:
    assert described({"rapl": 10.04, "nvml": 5.0}) == {"energyJoules": 15.0, "energySource": "nvml+rapl"}


class Driver:
    """NVML's three functions as its header has them, over a counter in millijoules; `code` is what they answer."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.millijoules = 5_000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: ARG002
        return 0 if uuid == b"GPU-1" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value: Any) -> int:  # noqa: ARG002
        value._obj.value = self.millijoules
        return self.code


def test_a_gpus_counter_is_the_drivers() -> None:
    driver = Driver()
    counter = nvml_counter(driver, "GPU-1")
    assert isinstance(counter, Counter)
    driver.millijoules = 7_500
    counter.sample()
    assert counter.joules == 2.5


def test_a_gpu_without_a_counter_is_not_known() -> None:
    assert nvml_counter(Driver(code=3), "GPU-1") is None
    assert nvml_counter(Driver(), "GPU-2") is None
