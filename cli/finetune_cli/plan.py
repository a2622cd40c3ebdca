"""What `finetune plan` shows: memory by what takes it, beside what there is; steps; and what would fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Document = Mapping[str, Any]
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "average": "average of the weights",
    "activations": "more, while activations are held",
    "exchange": "exchange of gradients or layers",
    "libraries": "libraries",
    "total": "total",
}
GIB, MIB = 1 << 30, 1 << 20


def show(console: Console, plan: Document, command: str) -> None:
    """`plan` is what the trainer tells; `command` is what runs the manifest."""
    for line in _run_lines(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(memory_table(plan))
    console.print()
    for line in [*_room_lines(plan), *_verdict_lines(plan, command)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def memory_table(plan: Document) -> Table:
    """What a process needs, a column for each way to share the model."""
    columns = plan["strategies"] or {"one process": plan["process"]}
    table = Table("Memory of a process", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right")
    for part, title in PARTS.items():
        if any(own[part] for own in columns.values()):
            style = "bold" if part == "total" else ""
            table.add_row(title, *(shown_bytes(own[part]) for own in columns.values()), style=style)
    return table


def shown_bytes(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _run_lines(plan: Document) -> list[str]:
    """Parameters, steps and settings."""
    steps, settings, parameters = plan["steps"], plan["settings"], plan["parameters"]
    all_, trained = parameters["all"], parameters["trained"]
    share = f"{100 * trained / all_:.2g} %" if trained < all_ else "all"
    looked = f", {plan['lookedAt']:,} of them looked at" if plan["lookedAt"] < plan["rows"] else ""
    lengths = plan["lengths"]
    recomputed = ", activations computed again" if settings["gradientCheckpointing"] else ""
    shared = f", {settings['processes']} processes by {settings['strategy']}" if settings["processes"] > 1 else ""
    return [
        f"{all_:,} parameters, {share} trained ({settings['method']}, {settings['optimizer']})",
        f"{plan['rows']:,} training rows{looked}; the longest takes {lengths['longest']:,}, "
        f"the mean {lengths['mean']:,} (tokens, samples or images)",
        f"{steps['total']:,} steps of {steps['rows']:,} rows, about {steps['tokens']:,} tokens each",
        f"micro-batches of {settings['microBatchSize']} rows in {settings['precision']}{recomputed}{shared}",
    ]


def _room_lines(plan: Document) -> list[str]:
    node, room = plan["node"], plan["room"]
    lines = []
    if node["device"] is not None:
        lines.append(_compared("A GPU", node["device"], room["device"], room["toldBy"]["device"]))
    title = f"A node with {node['processes']} processes" if node["processes"] > 1 else "The host"
    lines.append(_compared(title, node["host"], room["host"], room["toldBy"].get("host", "nothing says")))
    saved = shown_bytes(plan["checkpoint"])
    lines.append(f"A checkpoint takes {saved} on disk, and as much of the host's memory while it is written.")
    return lines


def _compared(title: str, need: int, there: int | None, told_by: str) -> str:
    has = "nobody knows" if there is None else shown_bytes(there)
    return f"{title} needs {shown_bytes(need)}; there is: {has} ({told_by})"


def _verdict_lines(plan: Document, command: str) -> list[str]:
    if plan["fits"]:
        return ["It fits." if plan["known"] else "Whether it fits is not known."]
    if plan["suggestion"] is None:
        return ["It does not fit, and no change of settings is enough: use a smaller model, or more memory."]
    return ["It does not fit. This would:", "", " \\\n    ".join([f"    {command}", *plan["suggestion"]])]
