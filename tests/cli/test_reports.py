"""`finetune report`: one run's figures, several side by side, and clear words for what is no run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from finetune_api.progress import ExitCode
from finetune_cli.__main__ import app
from finetune_cli.reports import print_reports
from support.pages import HOSTILE, a_record, a_run_folder, an_evaluation


def run_of(name: str, **changes: Any) -> dict[str, Any]:
    about = {
        "folder": "/runs/x",
        "task": "text-classification",
        "state": "Finished",
        "sentence": "",
        "rows": "8 + 1 + 1",
    }
    return {"name": name, **about, "seconds": 61.0, "time": "1 min 01 s"} | changes


ACCURACY = {"name": "accuracy", "values": [0.5, 0.75], "baselines": [0.4, 0.4], "best": [False, True]}
FIELD = {"name": "spec.training.learningRate", "values": [5e-05, None]}


def printed(document: dict[str, Any], width: int = 100) -> str:
    out = io.StringIO()
    print_reports(Console(file=out, width=width, highlight=False), {"notes": [], "page": None, "fields": []} | document)
    return out.getvalue()


def test_one_run_is_shown_beside_its_baseline() -> None:
    one = {"name": "accuracy", "values": [0.75], "baselines": [0.4], "best": [False]}
    lines = printed({"runs": [run_of("mails")], "metrics": [one], "page": "/runs/x/report.html"}).splitlines()
    assert lines[0] == "mails: text-classification, Finished, 1 min 01 s"
    assert lines[2].split() == ["accuracy", "0.7500", "0.4000"]
    assert lines[-1] == "The page is /runs/x/report.html"


def test_runs_stand_side_by_side_with_the_best_marked() -> None:
    text = printed(
        {"runs": [run_of("a"), run_of("b")], "metrics": [ACCURACY], "fields": [FIELD], "notes": ["Careful."]}
    )
    cells = [line.split() for line in text.splitlines()]
    assert ["accuracy", "0.5000", "*", "0.7500"] in cells
    assert ["spec.training.learningRate", "5e-05", "-"] in cells
    assert ["Careful."] in cells


def test_names_are_no_markup() -> None:
    text = printed({"runs": [run_of("[red]a[/red]"), run_of("[/]")], "metrics": [ACCURACY], "notes": ["[bold]"]})
    assert "[red]a[/red]" in text
    assert "[/]" in text
    assert "[bold]" in text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    slow = {
        "run": a_record(name=HOSTILE, learningRate=1e-5),
        "evaluation": an_evaluation(metrics={"test_accuracy": 0.9}),
    }
    return [a_run_folder(root / "a"), a_run_folder(root / "b", **slow)]


def test_the_command_compares_real_folders_and_leaves_a_page(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "both.html"
    ended = CliRunner().invoke(app, ["report", *map(str, runs), "--output", str(page)])
    assert ended.exit_code == ExitCode.DONE, ended.output
    assert "* 0.9000" in ended.output
    assert "spec.training.learningRate" in ended.output
    assert "<script>alert" not in page.read_text()


def test_the_command_says_what_is_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == ExitCode.CONFIG_ERROR
    assert "holds no run: it has no run.json" in capfd.readouterr().err
