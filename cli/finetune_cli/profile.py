"""What `finetune check --data` shows of the rows: their numbers, what preparing them did, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_LABELS = 12


def show(console: Console, found: Mapping[str, Any]) -> None:
    """`found` is what the trainer tells: profile.json, and under `data` what run.json would say of the data."""
    console.print(sides_table(found["sides"]))
    labels = found["sides"]["train"]["labels"]
    if labels:
        console.print()
        console.print(labels_table(found["sides"]))
    for line in preparation(found["data"]):
        console.print(line, highlight=False, markup=False)
    show_warnings(console, found["warnings"])


def sides_table(sides: Mapping[str, Mapping[str, Any]]) -> Table:
    """Rows and lengths of each side."""
    unit = next((side["lengths"]["unit"] for side in sides.values() if side["lengths"]), "")
    table = Table("Side", box=None, pad_edge=False)
    for name in ("rows", "repeated inputs", f"median {unit}", f"95 % of {unit}", f"longest {unit}"):
        table.add_column(name, justify="right")
    for side, numbers in sides.items():
        lengths = numbers["lengths"]
        measured = [f"{lengths[name]:g}" if lengths else "" for name in ("median", "p95", "max")]
        table.add_row(side, f"{numbers['rows']:,}", f"{numbers['duplicates']:,}", *measured)
    return table


def labels_table(sides: Mapping[str, Mapping[str, Any]]) -> Table:
    """How often each label comes on each side, the most frequent first."""
    table = Table("Label", *sides, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    labels = list(sides["train"]["labels"])
    for label in labels[:MOST_LABELS]:
        table.add_row(label, *(_share(side["labels"], label) for side in sides.values()))
    if labels[MOST_LABELS:]:
        table.add_row(f"and {len(labels) - MOST_LABELS} more")
    return table


def _share(counts: Mapping[str, int], label: str) -> str:
    count, total = counts.get(label, 0), sum(counts.values())
    return f"{count:,} ({count / total:.0%})" if total else ""


def preparation(data: Mapping[str, Any]) -> list[str]:
    """A line for each step of cleaning that did something, and what duplicates were found."""
    lines = [
        f"Cleaning, {step}: " + ", ".join(f"{count:,} rows {what}" for what, count in done.items() if count)
        for step, done in data.get("cleaning", {}).items()
        if any(done.values())
    ]
    dedup = data.get("dedup", {})
    across = sum(dedup.get("acrossSplits", {}).values())
    if dedup.get("withinTraining") or across:
        within = dedup.get("withinTraining", 0)
        lines.append(f"Duplicates removed from training: {within:,} of training rows, {across:,} of held-out rows")
    return ["", *lines] if lines else []


def show_warnings(console: Console, warnings: Sequence[Mapping[str, str]]) -> None:
    console.print()
    if not warnings:
        console.print("Nothing to warn of.")
    for warned in warnings:
        console.print(f"[yellow]{warned['code']}[/yellow]", end=": ")
        console.print(warned["message"], highlight=False, markup=False)
        console.print(f"    {warned['hint']}", highlight=False, markup=False)
