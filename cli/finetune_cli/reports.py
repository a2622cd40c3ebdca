"""What `finetune report` shows: one run's figures, or several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Document = Mapping[str, Any]
NOTHING = "-"


def print_reports(console: Console, document: Document) -> None:
    """What the trainer's page maker told."""
    if len(document["runs"]) == 1:
        _print_one(console, document)
    else:
        _print_several(console, document)
    for note in document["notes"]:
        console.print(Text(f"\n{note}"))
    if document["page"]:
        console.print(Text(f"\nThe page is {document['page']}"), soft_wrap=True)


def _print_one(console: Console, document: Document) -> None:
    (run,) = document["runs"]
    console.print(Text(f"{run['name']}: {run['task']}, {run['state']}, {run['time']}"))
    if run["sentence"]:
        console.print(Text(run["sentence"]))
    if document["metrics"]:
        table = Table("Test metric", box=None, pad_edge=False)
        table.add_column("This model", justify="right", style="bold")
        table.add_column("Baseline", justify="right")
        for metric in document["metrics"]:
            table.add_row(Text(metric["name"]), number(metric["values"][0]), number(metric["baselines"][0]))
        console.print(table)


def _print_several(console: Console, document: Document) -> None:
    console.print(_runs(document))
    if document["metrics"]:
        console.print(_beside(document, "Test metric", document["metrics"], _metric_cell))
    if document["fields"]:
        console.print(_beside(document, "What differs", document["fields"], _field_cell))
    else:
        console.print("The runs have the same configuration.")


def _runs(document: Document) -> Table:
    table = Table("Run", "State", "Rows", "Time", box=None, pad_edge=False)
    for run in document["runs"]:
        table.add_row(*(Text(str(run[name])) for name in ("name", "state", "rows", "time")))
    return table


def _beside(document: Document, title: str, lines: list[Document], cell: Any) -> Table:
    """One column a run."""
    table = Table(box=None, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for run in document["runs"]:
        table.add_column(Text(run["name"]), justify="right", overflow="fold")
    for line in lines:
        table.add_row(Text(line["name"]), *(cell(line, place) for place in range(len(document["runs"]))))
    return table


def _metric_cell(metric: Document, place: int) -> Text:
    """The best has a star, so that it is seen without colours too."""
    best = metric["best"][place]
    return Text(("* " if best else "") + number(metric["values"][place]), style="bold green" if best else "")


def _field_cell(field: Document, place: int) -> Text:
    value = field["values"][place]
    return Text(NOTHING if value is None else str(value))


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"
