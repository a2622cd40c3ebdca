"""The README's first minutes: the quickstart's manifest on this machine, through the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]

MANIFEST = Path(__file__).parents[2] / "examples" / "quickstart" / "job.yaml"
SEEDS = (42, 7, 2026)
FOLDER = {
    "README.md", "checkpoints", "errors.jsonl", "evaluation.json", "metrics.jsonl", "model", "outcome.json",
    "predictions.jsonl", "report.html", "run.json", "status.json", "trainer.log",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One `finetune run` that is over."""

    folder: Path
    code: int
    output: str

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.read("status.json")["metrics"])


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "finetune_cli", "run", str(MANIFEST), "--output", str(folder), *options]


def finetune_run(folder: Path, *options: str) -> Run:
    done = subprocess.run(
        command(folder, *options), capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"}
    )
    return Run(folder, done.returncode, done.stdout + done.stderr)


def finetune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finetune_cli", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The quickstart as `make quickstart` runs it."""
    return finetune_run(tmp_path_factory.mktemp("quickstart") / "run")


@pytest.fixture(scope="module")
def runs(first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The quickstart with three seeds: three splits, three orders, three new heads."""
    folder = tmp_path_factory.mktemp("seeds")
    others = [finetune_run(folder / str(seed), "--set", f"spec.training.seed={seed}") for seed in SEEDS[1:]]
    return [first_run, *others]


def test_it_ends_well_and_fills_the_folder(first_run: Run) -> None:
    assert first_run.code == 0, first_run.output
    missing = FOLDER - {path.name for path in first_run.folder.iterdir()}
    assert missing == set()
    assert first_run.read("status.json")["phase"] == "Succeeded"


def test_it_says_what_it_reached(first_run: Run) -> None:
    lines = first_run.output.splitlines()
    accuracy = next(line.split() for line in lines if line.startswith("accuracy"))
    metrics = first_run.metrics
    assert accuracy == ["accuracy", f"{metrics['test_accuracy']:.4f}", f"{metrics['test_baseline_accuracy']:.4f}"]
    assert any(line.startswith("Training") and "loss" in line and "ETA" in line for line in lines)
    assert "spec.resources.nodes is 2; on this machine it is 1." in lines


def test_it_learns_with_three_seeds(runs: list[Run]) -> None:
    """At least 0.85 on held-out texts and far above the most frequent label, whatever the split."""
    reached = [(run.metrics["test_accuracy"], run.metrics["test_baseline_accuracy"]) for run in runs]
    assert all(accuracy >= 0.85 and accuracy > baseline + 0.5 for accuracy, baseline in reached), reached


def test_the_seeds_hold_out_different_rows(runs: list[Run]) -> None:
    digests = {run.read("run.json")["data"]["sha256"] for run in runs}
    assert len(digests) == len(SEEDS)


def test_the_model_loads_in_transformers(first_run: Run) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", str(first_run.folder / "model"))
    texts = {
        "billing": "You charged my card twice for one order, please refund one of the two payments.",
        "delivery": "The tracking page has not changed for nine days, where is my parcel?",
        "account": "I cannot log in any more and the reset e-mail never arrives.",
    }
    assert {label: classify(text)[0]["label"] for label, text in texts.items()} == {label: label for label in texts}


def test_predict_says_what_the_model_makes_of_a_row(first_run: Run) -> None:
    """As the README shows it: one row on the command line, one JSON object."""
    asked = "text=I was charged twice, please refund one of them."
    said = finetune("predict", str(first_run.folder), "--input", asked)
    assert said.returncode == 0, said.stderr
    answer = json.loads(said.stdout)
    assert (answer["row"], answer["label"]) == (1, "billing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--input", "txt=hello"], "the command line has no column 'text'", id="a role that is not there"),
        pytest.param(["--input", "text"], "--input text has no value", id="no value"),
        pytest.param(["nowhere.csv"], "does not exist", id="no file"),
        pytest.param([], "one of FILE and --input is needed", id="nothing to predict"),
    ],
)
def test_predict_tells_what_is_wrong(first_run: Run, arguments: list[str], message: str) -> None:
    said = finetune("predict", str(first_run.folder), *arguments)
    assert said.returncode == 78
    assert message in said.stderr


def test_predict_needs_a_finished_run(tmp_path: Path) -> None:
    said = finetune("predict", str(tmp_path), "--input", "text=hello")
    assert (said.returncode, "holds no finished run" in said.stderr) == (78, True)


def test_run_again_it_says_that_it_is_finished(first_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in (first_run.folder / "model").iterdir()}
    again = finetune_run(first_run.folder)
    assert again.code == 0, again.output
    assert "finished" in again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_manifest_is_refused_with_the_fields(first_run: Run) -> None:
    changed = finetune_run(first_run.folder, "--set", "spec.training.learningRate=0.5")
    assert changed.code == 78, changed.output
    assert "training.learningRate" in changed.output
    assert "--fresh" in changed.output


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--set", "spec.training.maxSteps=12")
    running = subprocess.Popen(command(folder, *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_step(folder, 3)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 75, output
    assert f"finetune run {MANIFEST}" in output
    again = finetune_run(folder, *options)
    assert again.code == 0, again.output
    assert again.read("status.json")["checkpoint"]["resumedFromStep"] >= 3


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
        if lines and json.loads(lines[-1]).get("step", 0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached: {(folder / 'trainer.log').read_text()[-2000:]}")


def test_the_command_is_installed() -> None:
    """`make quickstart` leaves it beside the interpreter."""
    script = Path(sys.executable).with_name("finetune")
    assert subprocess.run([script, "--help"], capture_output=True, check=False).returncode == 0
