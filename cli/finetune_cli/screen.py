"""What `finetune run` shows: a progress bar while it works, then the test metrics beside the baseline."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table

from finetune_api.progress import ExitCode, Failure, Outcome
from finetune_api.status import ConditionType, Status

BASELINE = "baseline_"


class RunScreen:
    """A progress bar fed with statuses; a line for each stage where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._stage = ""
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("Preparing", total=100, detail="")

    def __enter__(self) -> RunScreen:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, status: Status) -> None:
        """Draws `status`."""
        stage, detail = stage_of(status), detail_of(status)
        percentage = (status.progress.percentage if status.progress else None) or 0
        self._bar.update(self._task, description=stage, completed=percentage, detail=detail)
        if not self.console.is_terminal and stage != self._stage:
            self.console.print(f"{stage}  {percentage} %  {detail}".rstrip(), highlight=False)
        self._stage = stage


def stage_of(status: Status) -> str:
    """What the trainer is doing, in one word."""
    running = next((item for item in status.conditions if item.type == ConditionType.RUNNING), None)
    return running.reason if running is not None and running.status == "True" else str(status.phase or "Preparing")


def detail_of(status: Status) -> str:
    """Step, loss and time to go, as far as they are known."""
    progress = status.progress
    if progress is None:
        return ""
    parts = []
    if progress.step is not None and progress.total_steps:
        parts.append(f"step {progress.step}/{progress.total_steps}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss}")
    if progress.eta_seconds is not None:
        parts.append(f"ETA {clock(progress.eta_seconds)}")
    return "  ".join(parts)


def clock(seconds: int) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """Test metrics, each beside what a guess from the training rows alone reaches."""
    table = Table("Test metric", title_justify="left", box=None, pad_edge=False)
    table.add_column("This model", justify="right", style="bold")
    table.add_column("Baseline", justify="right")
    tested = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    for name, value in tested.items():
        if not name.startswith(BASELINE):
            baseline = tested.get(BASELINE + name)
            table.add_row(name, f"{value:.4f}", "" if baseline is None else f"{baseline:.4f}")
    return table


def print_success(console: Console, folder: Path, outcome: Outcome) -> None:
    console.print(metrics_table(outcome.metrics))
    console.print(f"\nThe run's folder is {shown(folder)}. To use the model:\n", highlight=False)
    console.print(f"    finetune predict {shlex.quote(shown(folder))} FILE\n", highlight=False, markup=False)
    console.print(f"{shown(folder / 'README.md')} has the Python lines.", highlight=False, markup=False)
    if outcome.output is not None and outcome.output.pushed_uri is not None:
        console.print(
            f"The model was pushed to {outcome.output.pushed_uri}", highlight=False, markup=False, soft_wrap=True
        )
    _print_where_the_page_is(console, folder)


def _print_where_the_page_is(console: Console, folder: Path) -> None:
    page = folder / "report.html"
    if page.exists():
        console.print(f"{shown(page)} shows what it learned and where it errs.", highlight=False, markup=False)


def print_gate_failed(console: Console, folder: Path, outcome: Outcome) -> None:
    """All metrics, which of them did not pass, and where the model is nevertheless."""
    console.print(metrics_table(outcome.metrics))
    if outcome.failure is not None:
        console.print(f"\n[red]{outcome.failure.class_}[/red]:", end=" ")
        console.print(outcome.failure.message, highlight=False, markup=False)
        console.print(outcome.failure.hint or "", highlight=False, markup=False)
    console.print(f"\nThe model is kept in {shown(folder / 'model')}.", highlight=False, markup=False)
    _print_where_the_page_is(console, folder)


def print_kept(console: Console, folder: Path) -> None:
    """After a push that failed: nothing is lost."""
    message = f"The model is kept in {shown(folder / 'model')}; the same command again only pushes it."
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def print_interrupted(console: Console, outcome: Outcome | None, command: list[str]) -> None:
    step = outcome.checkpoint.step if outcome and outcome.checkpoint else None
    saved = f"saved at step {step}" if step else "nothing was saved yet"
    console.print(f"Interrupted, {saved}. To go on:\n\n    {shlex.join(command)}", highlight=False, markup=False)


def print_failure(console: Console, code: int, failure: Failure | None, log: str) -> None:
    if failure is None:
        console.print(f"The trainer ended with exit code {code}. The end of its log:\n{log}", markup=False)
        return
    console.print(f"[red]{failure.class_}[/red]", end=" ")
    console.print(f"({failure.reason}): {failure.message}", highlight=False, markup=False)
    if failure.hint:
        console.print(failure.hint, highlight=False, markup=False)
    if code == ExitCode.CODE_ERROR and failure.log_tail:
        console.print(failure.log_tail, highlight=False, markup=False)


def shown(path: Path) -> str:
    """`path` as short as it can be typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
