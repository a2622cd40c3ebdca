"""From measurements to figures: ratios of seconds, memory, waiting, and whether both sides did the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from benchmarks.trainer.sides import DYNAMIC, OURS, SCRIPTS, SIDES

Measured = Mapping[str, Any]
TAIL = 0.2
"""Share of a run over which its last loss is a mean."""
POINTS = 5
"""Of a loss curve that is printed; the JSON has all."""
TEXTS = ("pairs", "long", "question-answering", "summarization", "chat", "lora")


def target(workload: str, side: str, precision: str) -> float | None:
    """The least ratio that the project has set itself."""
    if side == SCRIPTS:
        return 8.0 if workload == "short" else None
    if side != DYNAMIC:
        return None
    if precision == "auto":
        return 2.0
    return {"short": 1.5, "frozen": 3.0, **dict.fromkeys(TEXTS, 1.3)}.get(workload, 1.0)


def figures(workload: str, found: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """One line a side; peers have their ratios to ours."""
    ours, facts = found[OURS], found["facts"]
    lines = {side: _line(workload, side, found[side], ours, precision) for side in SIDES if side in found}
    if facts.get("peak_flops"):
        for line in lines.values():
            if "seconds" in line:
                line["mfu"] = facts["flops"] / line["seconds"] / facts["peak_flops"]
    return lines


def _line(
    workload: str, side: str, measured: Sequence[Measured], ours: Sequence[Measured], precision: str
) -> dict[str, Any]:
    failed = [one["error"] for one in (*measured, *ours) if "error" in one]
    if failed:
        return {"error": failed[0]}
    first = measured[0]
    seconds = median(one["seconds"] for one in measured)
    line = {
        "seconds": seconds,
        "wall_seconds": median(one["wall_seconds"] for one in measured),
        "peak_mib": median(one["peak_mib"] for one in measured),
        "device_mib": median(one["device_mib"] for one in measured),
        "tokens_per_second": first["tokens"] / seconds,
        **{name: first[name] for name in ("steps", "rows", "tokens", "computed")},
        "curve": curve(first["losses"]),
        "last_loss": last_loss(first["losses"]),
    }
    waits = [one["data_wait_seconds"] / one["seconds"] for one in measured if one["data_wait_seconds"] is not None]
    if waits:
        line["data_wait_share"] = median(waits)
    return line if side == OURS else line | _against(workload, side, measured, ours, precision)


def _against(
    workload: str, side: str, measured: Sequence[Measured], ours: Sequence[Measured], precision: str
) -> dict[str, Any]:
    """Of each round the seconds of the peer by ours: where it is more than 1, ours is faster."""
    ratios = [peer["seconds"] / own["seconds"] for peer, own in zip(measured, ours, strict=True)]
    processor = [peer["processor_seconds"] / own["processor_seconds"] for peer, own in zip(measured, ours, strict=True)]
    memory = median(own["peak_mib"] for own in ours) / median(peer["peak_mib"] for peer in measured)
    same = all(
        one[name] == ours[0][name]
        for one in measured
        for name in (("steps", "rows", "tokens") if SIDES[side].same_steps else ("rows", "tokens"))
    )
    return {
        "ratio": median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "target": target(workload, side, precision),
        "processor_ratio": median(processor),
        "memory_ratio": memory,
        "same_work": same,
    }


def last_loss(losses: Sequence[Sequence[float]]) -> float:
    """Mean of the last fifth of the logged losses."""
    values = [loss for _, loss in losses]
    return fmean(values[-max(1, round(len(values) * TAIL)) :])


def curve(losses: Sequence[Sequence[float]]) -> list[float]:
    """The losses in `POINTS` parts of the run, the mean of each; fewer where fewer were logged."""
    values = [loss for _, loss in losses]
    count = min(POINTS, len(values))
    edges = [round(part * len(values) / count) for part in range(count + 1)]
    return [fmean(values[first:last]) for first, last in pairwise(edges)]
