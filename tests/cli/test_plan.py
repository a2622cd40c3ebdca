"""`finetune plan` tells what a run will need, as a table or as JSON, and ends with 137 where that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from finetune_cli.__main__ import app

pytestmark = pytest.mark.torch
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart" / "job.yaml"


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", str(QUICKSTART), *arguments], env={"COLUMNS": "200"})


def test_a_plan_adds_up_and_suggests_what_fits() -> None:
    """The parts are those of two processes with AdamW; where it does not fit, the exit code says so."""
    result = plan("--output", "json", "--set", "spec.resources.memory=1100Mi", "--set", "spec.training.maxSteps=50")
    found = json.loads(result.stdout)
    own = found["process"]
    assert own["total"] == sum(size for part, size in own.items() if part != "total")
    assert (found["steps"]["total"], found["steps"]["rows"], found["rows"]) == (50, 32, 504)
    assert (own["weights"], own["optimizer"]) == (pytest.approx(4 * 22_715_526, rel=0.01), 8 * 22_715_526)
    assert found["checkpoint"] == 12 * 22_715_526
    assert set(found["strategies"]) == {"ddp", "fsdp"}
    assert (result.exit_code, found["fits"]) == ((0, True) if own["total"] <= 1100 << 20 else (137, False))
    if not found["fits"]:
        assert found["suggestion"]


def test_frozen_weights_in_bf16_take_half_and_nobody_else_has_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """Linear layers alone: 11.7 million of the 22.7 million weights are an embedding's, which stays in 32 bits."""
    wide, narrow = (
        json.loads(
            plan(
                *("--output", "json", "--set", "spec.method.type=lora", "--set", "spec.resources.nodes=1"),
                *("--set", f"spec.training.precision={precision}"),
            ).stdout
        )["process"]["weights"]
        for precision in ("fp32", "bf16")
    )
    assert wide - narrow == pytest.approx(2 * 10_600_000, rel=0.02)
    assert capfd.readouterr().err == ""


def test_a_manifest_that_cannot_run_is_refused_as_a_run_would() -> None:
    result = plan("--set", "spec.method.type=qlora")
    assert result.exit_code == 78
