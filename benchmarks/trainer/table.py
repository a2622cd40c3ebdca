"""The figures as Markdown, in the form that docs/benchmarks.md has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.trainer.sides import OURS, SIDES

HEAD = (
    "workload",
    "side",
    "seconds",
    "ratio",
    "spread",
    "target",
    "processor",
    "memory, ours/theirs",
    "tokens/s",
    "whole process",
    "last loss",
    "same work",
)


def markdown(document: Mapping[str, Any]) -> str:
    """Machine and versions, the table, the loss curves, and what the sides are."""
    workloads: Mapping[str, Any] = document["workloads"]
    lines = [_about(document), "", _row(HEAD), _row("---" for _ in HEAD)]
    for name, known in workloads.items():
        lines += [_row(_cells(name, side, figures)) for side, figures in known["figures"].items()]
    lines += ["", "Our data wait, share of the loop: " + _waits(workloads), "", "Mean losses in parts of the run:", ""]
    for name, known in workloads.items():
        for side, figures in known["figures"].items():
            if "curve" in figures:
                lines.append(f"- {name}, {side}: " + " ".join(f"{loss:.3f}" for loss in figures["curve"]))
    lines += _shares(workloads)
    used = {side for known in workloads.values() for side in known["figures"]}
    return "\n".join([*lines, "", *(f"- `{name}`: {side.what}" for name, side in SIDES.items() if name in used)])


def _about(document: Mapping[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{document['date']}, {machine['threads']} threads of {machine['processor']}, {named}; "
        f"ours in {document['precision']}, {document['rounds']} rounds"
    )


def _cells(workload: str, side: str, figures: Mapping[str, Any]) -> list[str]:
    if "error" in figures:
        return [workload, side, "failed", *("" for _ in HEAD[3:])]
    cells = [workload, side, f"{figures['seconds']:.1f}"]
    if "ratio" not in figures:
        cells += ["1" if side == OURS else "", "", "", "", f"{figures['peak_mib']:.0f} MiB"]
    else:
        least, most = figures["ratio_range"]
        wanted = figures["target"]
        cells += [
            f"**{figures['ratio']:.2f}**",
            f"{least:.2f} to {most:.2f}",
            "" if wanted is None else f"{wanted:.1f}",
        ]
        cells += [f"{figures['processor_ratio']:.2f}", f"{figures['memory_ratio']:.2f}"]
    cells += [f"{figures['tokens_per_second']:.0f}", f"{figures['wall_seconds']:.1f}", f"{figures['last_loss']:.4f}"]
    return [*cells, "" if "ratio" not in figures else ("yes" if figures["same_work"] else "**no**")]


def _waits(workloads: Mapping[str, Any]) -> str:
    lines = [(f"{name}, {side}", line) for name, known in workloads.items() for side, line in known["figures"].items()]
    return "; ".join(f"{name} {line['data_wait_share']:.2%}" for name, line in lines if "data_wait_share" in line)


def _shares(workloads: Mapping[str, Any]) -> list[str]:
    """Of what the device could do at most, where that is known."""
    lines = [(name, side, line) for name, known in workloads.items() for side, line in known["figures"].items()]
    used = [
        f"- {name}, {side}: {line['mfu']:.1%}, {line['device_mib']:.0f} MiB"
        for name, side, line in lines
        if "mfu" in line
    ]
    return ["", "Share of the device's peak (MFU), and its memory:", "", *used] if used else []


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
