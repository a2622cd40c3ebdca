"""The `finetune` command: `check` a manifest, `plan` it, `run` it here, `predict` with what it left, `report` on it."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from finetune_api.job import FineTuneJob
from finetune_api.manifest import InvalidManifest, Problem, parse_job, read_yaml
from finetune_api.progress import ExitCode
from finetune_cli import local, profile, reports, runner, screen
from finetune_cli import plan as planned
from finetune_cli.overrides import apply_overrides

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

ManifestFile = Annotated[Path, typer.Argument(help="A FineTuneJob manifest.")]
Volumes = Annotated[list[str], typer.Option(help="Folder of a claim: claim=DIR.")]
Assignments = Annotated[list[str], typer.Option("--set", help="Change one field: spec.training.learningRate=1e-4.")]


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


@app.command()
def check(
    file: ManifestFile,
    assignments: Assignments = [],  # noqa: B006
    data: Annotated[bool, typer.Option("--data", help="Read the rows as well, and tell what they are like.")] = False,
    volume: Volumes = [],  # noqa: B006
) -> None:
    """Tell every mistake in a manifest, with its field and what would work."""
    job = _read(file, assignments)
    console.print(f"{file}: FineTuneJob {job.metadata.name} is valid")
    if data:
        raise typer.Exit(_check_data(job, file, volume))


def _check_data(job: FineTuneJob, file: Path, volume: list[str]) -> int:
    """Shows what a run would read; returns the exit code that the run would end with because of it."""
    try:
        volumes = local.volume_folders(job.spec, volume, Path.cwd())
    except InvalidManifest as invalid:
        _refuse(invalid)
    config = local.run_config(job, Path("runs", job.metadata.name).absolute(), file.parent.absolute(), volumes, None)
    code, found = runner.check_data(config)
    if found is not None:
        profile.show(console, found)
    return code


@app.command()
def plan(
    file: ManifestFile,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes on this machine instead of the manifest's.")
    ] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=0.1, help="What each GPU has, in GiB.")] = None,
    output: Annotated[Format, typer.Option(help="text, or json for programs.")] = Format.TEXT,
    assignments: Assignments = [],  # noqa: B006
    volume: Volumes = [],  # noqa: B006
) -> None:
    """Tell what a run will need before it starts: memory, disk, steps; ends with 71 or 137 if it does not fit."""
    job = _read(file, assignments)
    try:
        volumes = local.volume_folders(job.spec, volume, Path.cwd())
        config = local.run_config(
            job, Path("runs", job.metadata.name).absolute(), file.parent.absolute(), volumes, processes
        )
    except InvalidManifest as invalid:
        _refuse(invalid)
    if processes is None:
        config = config.model_copy(update={"resources": job.spec.resources})
    code, found = runner.plan(config, gpu_memory)
    if found is None:
        raise typer.Exit(code)
    if output is Format.JSON:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        command = ["finetune", "run", str(file), *(f"--set={assignment}" for assignment in assignments)]
        planned.show(console, found, shlex.join(command))
    if not found["fits"]:
        raise typer.Exit(ExitCode.KILLED if found["node"]["device"] is None else ExitCode.OUT_OF_MEMORY)


@app.command()
def run(
    file: ManifestFile,
    output: Annotated[Path | None, typer.Option(help="The run's folder; runs/<name> if absent.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, max=64, help="Data-parallel processes.")] = None,
    assignments: Assignments = [],  # noqa: B006
    volume: Volumes = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Set a former run aside and start over.")] = False,
) -> None:
    """Carry out a manifest here and now. In the folder of an unfinished run it resumes."""
    job = _read(file, assignments)
    folder = (output or Path("runs", job.metadata.name)).absolute()
    try:
        volumes = local.volume_folders(job.spec, volume, Path.cwd())
        if fresh and (former := runner.set_aside(folder)):
            console.print(f"The former run is now in {screen.shown(former)}.")
        config = local.run_config(job, folder, file.parent.absolute(), volumes, processes)
        _say_what_differs_here(job)
        with runner.locked(folder), screen.RunScreen(console) as shown:
            finished, pushed = runner.is_finished(folder), runner.pushed_uri(folder)
            code = runner.run_trainer(config, shown.show)
    except InvalidManifest as invalid:
        _refuse(invalid)
    if finished and pushed == runner.pushed_uri(folder) and code in (ExitCode.DONE, ExitCode.EVALUATION_GATE_FAILED):
        console.print("This run was finished before; nothing was done. To start over, add --fresh.\n")
    _report(code, folder)
    raise typer.Exit(code)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    file: Annotated[str | None, typer.Argument(help="Rows: a file, a folder, or a URI; targets may be absent.")] = None,
    values: Annotated[list[str], typer.Option("--input", help="A row instead of a file: role=value.")] = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="Where the lines go instead of the terminal.")] = None,
) -> None:
    """Say what a run's model makes of new rows: one JSON object a line."""
    if (file is None) != bool(values):
        _refuse(
            InvalidManifest([Problem("FILE", "one of FILE and --input is needed", "name a file, or a row's values")])
        )
    raise typer.Exit(runner.run_prediction(run, file, values, output))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[Path | None, typer.Option(help="The page's file; report.html of a single run if absent.")] = None,
) -> None:
    """Make a run's report.html again, or compare several runs: metrics, what differs, curves."""
    code, document = runner.run_report(runs, output)
    if document is not None:
        reports.print_reports(console, document)
    raise typer.Exit(code)


def _read(file: Path, assignments: list[str]) -> FineTuneJob:
    try:
        value = read_yaml(_text(file))
        return parse_job(apply_overrides(value, assignments) if isinstance(value, dict) else value)
    except InvalidManifest as invalid:
        _refuse(invalid, str(file))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InvalidManifest([Problem(str(file), str(reason))]) from error


def _refuse(invalid: InvalidManifest, where: str = "") -> NoReturn:
    for problem in invalid.problems:
        errors.print(f"{where}: {problem}" if where else str(problem), markup=False, soft_wrap=True)
    raise typer.Exit(ExitCode.CONFIG_ERROR) from invalid


def _say_what_differs_here(job: FineTuneJob) -> None:
    nodes = job.spec.resources.nodes
    if nodes > 1:
        console.print(f"spec.resources.nodes is {nodes}; on this machine it is 1.")


def _report(code: int, folder: Path) -> None:
    outcome = runner.read_outcome(folder)
    if code == ExitCode.DONE and outcome is not None:
        screen.print_success(console, folder, outcome)
    elif code == ExitCode.EVALUATION_GATE_FAILED and outcome is not None:
        screen.print_gate_failed(errors, folder, outcome)
    elif code == ExitCode.PREEMPTED:
        screen.print_interrupted(errors, outcome, ["finetune", *sys.argv[1:]])
    else:
        screen.print_failure(errors, code, outcome.failure if outcome else None, runner.log_tail(folder))
        if outcome is not None and outcome.output is not None:
            screen.print_kept(errors, folder)


def main() -> None:
    app(prog_name="finetune")


if __name__ == "__main__":
    main()
