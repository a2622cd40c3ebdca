"""What each side measures of itself: the seconds of its training loop, its memory there, and its losses.

Standard library only, for it is imported by programs that are to import nothing of each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

PEAK_AGAIN = "5"
"""Written to clear_refs, the kernel counts the process's peak from now on (proc(5))."""


@dataclass
class Stopwatch:
    """Filled by the side while it trains. Seconds are of `perf_counter`, memory is MiB.

    `processor_seconds` are those of all threads together: where neighbours are busy they say more than `seconds`.
    `computed` are the positions that the model was given with padding, 0 where that is not known.
    """

    started: float = 0.0
    processor_started: float = 0.0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    steps: int = 0
    rows: int = 0
    tokens: int = 0
    computed: int = 0
    peak_mib: float = 0.0
    device_mib: float = 0.0
    data_wait_seconds: float | None = None
    step_ends: list[float] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)

    def start(self) -> None:
        """The loop begins: what was needed before, such as to load the model, does not count."""
        Path("/proc/self/clear_refs").write_text(PEAK_AGAIN, encoding="ascii")
        self.processor_started = time.process_time()
        self.started = time.perf_counter()

    def step(self, wait: Callable[[], None] | None = None) -> None:
        """A step ended; the last one is the end of the loop, and what is saved then does not count.

        `wait` returns when the device has done what it was told, which only the last step has to know.
        """
        if wait is not None:
            wait()
        self.steps += 1
        self.seconds = time.perf_counter() - self.started
        self.processor_seconds = time.process_time() - self.processor_started
        self.step_ends.append(round(self.seconds, 4))

    def stop(self, device_mib: float = 0.0) -> None:
        self.peak_mib, self.device_mib = peak_mib(), device_mib

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def peak_mib() -> float:
    """Most memory that this process held since the peak was last cleared."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
