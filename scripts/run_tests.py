"""`make test`: every part in order, then how long each took beside its share of the hour.

Without root the cluster part cannot run: it is skipped and the report says why; with FINETUNE_TEST_NO_SKIP=1, as in
CI, a part that cannot run is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CLUSTER = (sys.executable, "-m", "support.cluster")


@dataclass(frozen=True)
class Part:
    """One part of the tests: its commands, its share in minutes, whether it needs the test cluster."""

    name: str
    minutes: int
    commands: tuple[tuple[str, ...], ...]
    needs_cluster: bool = False


PARTS = (
    Part(
        "lint",
        2,
        (
            (f"{BIN}/ruff", "check", "."),
            (f"{BIN}/ruff", "format", "--check", "."),
            (f"{BIN}/mypy",),
            (f"{BIN}/lint-imports",),
        ),
    ),
    Part("fast", 3, ((f"{BIN}/pytest", "-q", "-m", "not torch and not cluster", "-n", "2"),)),
    # Small models leave one of two processors idle: the matrix runs beside all the rest.
    Part("trainer", 25, ((f"{BIN}/pytest", "-q", "-m", "torch", "-n", "2", "--dist", "loadfile"),)),
    Part("setup of the cluster", 14, ((*CLUSTER, "build"), (*CLUSTER, "images")), needs_cluster=True),
    Part("cluster", 40, ((f"{BIN}/pytest", "-q", "-m", "cluster"),), needs_cluster=True),
)


@dataclass(frozen=True)
class Result:
    part: Part
    verdict: str
    seconds: float


def main() -> int:
    missing = cluster_obstacle()
    if missing:
        print(missing, flush=True)
        if os.environ.get("FINETUNE_TEST_NO_SKIP"):
            return 1
    results = [run(part, missing) for part in PARTS]
    print(report(results), flush=True)
    return int(any(result.verdict == "failed" for result in results))


def cluster_obstacle() -> str:
    """Why the cluster tests cannot run here; empty if they can."""
    if os.environ.get("FINETUNE_TEST_KUBECONFIG"):
        return ""
    preflight = subprocess.run((*CLUSTER, "preflight"), env=environment(), capture_output=True, text=True, check=False)
    return "" if preflight.returncode == 0 else (preflight.stdout + preflight.stderr).strip()


def run(part: Part, cluster_missing: str) -> Result:
    if part.needs_cluster and cluster_missing:
        return Result(part, "skipped", 0.0)
    if part.name.startswith("setup") and os.environ.get("FINETUNE_TEST_KUBECONFIG"):
        return Result(part, "not needed", 0.0)
    print(f"\n=== {part.name} ===", flush=True)
    start = time.monotonic()
    codes = [subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode for command in part.commands]
    return Result(part, "failed" if any(codes) else "passed", time.monotonic() - start)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "tests")}


def report(results: list[Result]) -> str:
    rows = [f"{'part':24}{'result':12}{'time':>8}{'share':>10}"]
    rows += [
        f"{result.part.name:24}{result.verdict:12}{result.seconds:>7.0f}s{result.part.minutes:>7} min"
        for result in results
    ]
    total = sum(result.seconds for result in results)
    return "\n" + "\n".join([*rows, f"{'total':36}{total:>7.0f}s{60:>7} min"])


if __name__ == "__main__":
    sys.exit(main())
