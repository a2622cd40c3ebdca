"""From measurements to figures: ratios of seconds, memory, waiting, and whether both sides did the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from benchmarks.trainer.sides import AUTO, DYNAMIC, OURS, SCRIPTS, SIDES

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
    if side == AUTO or (side == DYNAMIC and precision == "auto"):
        return 2.0
    if side != DYNAMIC:
        return None
    return {"short": 1.5, "frozen": 3.0, **dict.fromkeys(TEXTS, 1.3)}.get(workload, 1.0)


def figures(workload: str, found: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """One line a side. Peers have their ratios to ours, and ours in the precision of its choice that of (a) to it."""
    facts = found["facts"]
    lines = {}
    for side in (side for side in SIDES if side in found):
        peer, own = (found.get(DYNAMIC), found[side]) if side == AUTO else (found[side], found[OURS])
        failed = [one["error"] for one in (*found[side], *own, *(peer or ())) if "error" in one]
        lines[side] = {"error": failed[0]} if failed else _line(found[side])
        if side != OURS and peer is not None and not failed:
            same_steps = SIDES[side].same_steps
            lines[side] |= _against(peer, own, same_steps) | {"target": target(workload, side, precision)}
    if facts.get("peak_flops"):
        for line in lines.values():
            if "seconds" in line:
                line["mfu"] = facts["flops"] / line["seconds"] / facts["peak_flops"]
    return lines


def _line(measured: Sequence[Measured]) -> dict[str, Any]:
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
    return line | ({"data_wait_share": median(waits)} if waits else {})


def _against(theirs: Sequence[Measured], ours: Sequence[Measured], same_steps: bool) -> dict[str, Any]:
    """Of each round the seconds of the peer by ours: where it is more than 1, ours is faster."""
    ratios = [peer["seconds"] / own["seconds"] for peer, own in zip(theirs, ours, strict=True)]
    processor = [peer["processor_seconds"] / own["processor_seconds"] for peer, own in zip(theirs, ours, strict=True)]
    memory = median(own["peak_mib"] for own in ours) / median(peer["peak_mib"] for peer in theirs)
    equal = ("steps", "rows", "tokens") if same_steps else ("rows", "tokens")
    return {
        "ratio": median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "processor_ratio": median(processor),
        "memory_ratio": memory,
        "same_work": all(one[name] == ours[0][name] for one in theirs for name in equal),
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
