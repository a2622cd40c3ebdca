"""`python -m benchmarks.trainer`: measure, print a table, and write everything into a JSON file."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.trainer import compare, figures, table
from benchmarks.trainer.sides import AUTO, OURS, SIDES, sides_of
from benchmarks.trainer.workloads import WORKLOADS, Workload, part_of, quick
from finetune_trainer.cgroup import available_processors

VERSIONS = ("finetune-operator", "torch", "transformers", "accelerate", "trl")
RESULTS = Path(__file__).parents[1] / "results"


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.trainer", description=__doc__)
    parser.add_argument("--workloads", help="names with commas between them; all that the device can do if absent")
    parser.add_argument("--sides", help=f"names with commas between them, of {', '.join(SIDES)}; ours always runs")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured")
    parser.add_argument("--precision", choices=("fp32", "auto", "bf16", "fp8"), default="fp32", help="that of ours")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny models and few rows: does it run, not how fast")
    parser.add_argument("--part", type=float, default=1.0, help="share of the rows: 0.25 for a first look")
    parser.add_argument("--passive", action="store_true", help="peers get OMP_WAIT_POLICY=PASSIVE: on a busy machine")
    parser.add_argument(
        "--peer-options", type=json.loads, default={}, help="JSON of further TrainingArguments of peers"
    )
    parser.add_argument("--profile", metavar="WORKLOAD", help="print the longest operators of a step of ours instead")
    parser.add_argument("--output", type=Path, help="the JSON file; benchmarks/results/DATE.json if absent")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> int:
    options = arguments(given)
    how = compare.How(
        precision=options.precision,
        rounds=options.rounds,
        threads=available_processors(),
        gpus=1 if options.device == "cuda" else 0,
        passive=options.passive,
        peer_options=options.peer_options,
    )
    with tempfile.TemporaryDirectory(prefix="finetune-benchmark-") as folder:
        if options.profile is not None:
            (workload,) = _chosen(options.profile, options)
            print(compare.profile(workload, Path(folder) / workload.name, how))
            return 0
        document = _measured(options, how, Path(folder))
    path = options.output or RESULTS / f"{document['date']}-{how.precision}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    print(table.markdown(document))
    print(f"\nwritten to {path}", file=sys.stderr)
    lines = [line for known in document["workloads"].values() for line in known["figures"].values()]
    return 1 if any("error" in line for line in lines) else 0


def _measured(options: argparse.Namespace, how: compare.How, folder: Path) -> dict[str, Any]:
    workloads: dict[str, Any] = {}
    for workload in _chosen(options.workloads, options):
        sides = _sides(workload, options.sides, options.precision)
        found = compare.compare(workload, sides, folder / workload.name, how, lambda line: print(line, file=sys.stderr))
        workloads[workload.name] = {
            "figures": figures.figures(workload.name, found, how.precision),
            "measurements": {side: found[side] for side in sides},
            "device": found["facts"].get("device"),
        }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "precision": how.precision,
        "rounds": how.rounds,
        "device": options.device,
        "quick": options.quick,
        "part": options.part,
        "passive": how.passive,
        "peer_options": how.peer_options,
        "machine": {"threads": how.threads, "processor": _processor()},
        "versions": {name: version for name in VERSIONS if (version := _version(name)) is not None},
        "workloads": workloads,
    }


def _chosen(names: str | None, options: argparse.Namespace) -> list[Workload]:
    gpu = options.device == "cuda"
    wanted = names.split(",") if names else [name for name, workload in WORKLOADS.items() if workload.gpu == gpu]
    unknown = [name for name in wanted if name not in WORKLOADS]
    if unknown:
        sys.exit(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    return [quick(WORKLOADS[name]) if options.quick else part_of(WORKLOADS[name], options.part) for name in wanted]


def _sides(workload: Workload, names: str | None, precision: str) -> list[str]:
    wanted = set(names.split(",")) | {OURS} if names else set(SIDES)
    unknown = wanted - set(SIDES)
    if unknown:
        sys.exit(f"no side {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}")
    sides = [side for side in sides_of(workload) if side in wanted and (side != AUTO or precision == "fp32")]
    missing = compare.missing(sides)
    if missing:
        print(f"without {', '.join(missing)}: `make bench-trainer` installs TRL", file=sys.stderr)
    return [side for side in sides if side not in missing]


def _processor() -> str:
    """Its name, and whether it computes in bf16."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in known.get("flags", "").split()]
    return " ".join([known.get("model name", platform.machine()), *flags])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        path = next(compare.PACKAGES.glob(f"{package}-*.dist-info"), None)
        return None if path is None else path.name.removeprefix(f"{package}-").removesuffix(".dist-info")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
