"""`finetune check` tells every mistake at once and ends with the code of a bad configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from finetune_api.job import Task
from finetune_cli.__main__ import app
from support.manifests import a_manifest

EXAMPLES = Path(__file__).parents[2] / "examples"


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("job*.yaml")), ids=lambda file: str(file.relative_to(EXAMPLES)))
def test_every_example_is_valid(file: Path) -> None:
    assert check(str(file)).exit_code == 0


def test_every_mistake_is_told(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(a_manifest(task="text-clasification", training={"seed": -1})))
    result = check(str(file))
    assert (result.exit_code, result.stderr.splitlines()) == (
        78,
        [
            f"{file}: spec.task: 'text-clasification' is not one of {', '.join(repr(str(task)) for task in Task)} "
            "(did you mean text-classification?)",
            f"{file}: spec.training.seed: -1 is less than 0",
        ],
    )


def test_set_is_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(a_manifest()))
    result = check(str(file), "--set", "spec.resources.nodes=0")
    assert (result.exit_code, result.stderr) == (78, f"{file}: spec.resources.nodes: 0 is less than 1\n")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = check(str(tmp_path / "none.yaml"))
    assert result.exit_code == 78
    assert "none.yaml: No such file or directory" in result.stderr


QUICKSTART = EXAMPLES / "quickstart" / "job.yaml"


def test_the_rows_are_told_of_when_asked_for() -> None:
    """Rows, lengths and labels of each side, and nothing of a model: the real trainer reads them."""
    result = check(str(QUICKSTART), "--data", "--set", "spec.model.uri=pkg://no_such_package/model")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert {"train", "validation", "test", "Label"} <= set(lines)
    assert sum(int(lines[side][0]) for side in ("train", "validation", "test")) == 720


def test_rows_that_cannot_be_learned_from_are_told_as_a_run_would(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nonly this,one\n" * 1)
    result = check(str(QUICKSTART), "--data", "--set", f"spec.dataset.train[0].uri={(tmp_path / 'rows.csv').as_uri()}")
    assert result.exit_code == 65
