"""run.json says what a run is: a later attempt may change where it runs, not what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.record import (
    Choices,
    Facts,
    check_same_data,
    check_unchanged,
    fingerprint,
    kept_choices,
    record_of,
)
from support.runs import a_run

CHOICES = Choices("fp32", processes=2, threads=1, micro_batch_rows=8, log_steps=1, total_steps=96, warmup_steps=0)
FACTS = Facts({"sha256": "d" * 64}, {"sha256": "e" * 64}, ModelFolder(Path("/model"), "bert", 64))


def config(**sections: dict[str, Any]) -> RunConfig:
    run = a_run(Path("/runs/quick"), "./rows.csv", "./model")
    for name, fields in sections.items():
        run = run.with_(name, **fields)
    return RunConfig.model_validate(run.config)


def record(**sections: dict[str, Any]) -> dict[str, Any]:
    return record_of(config(**sections), FACTS, CHOICES, {"versions": {"torch": "2"}})


def test_choices_are_kept() -> None:
    assert kept_choices(record()) == CHOICES
    assert kept_choices(None) is None


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        pytest.param("job", {"attempt": 2}, id="attempt"),
        pytest.param("resources", {"processesPerNode": 4, "nodes": 3}, id="processes"),
        pytest.param("checkpoint", {"everySteps": 5, "keepLast": 1}, id="saves"),
        pytest.param("model", {"secretRef": {"name": "token"}}, id="secret"),
        pytest.param("output", {"uri": "pvc://models"}, id="where the output goes"),
    ],
)
def test_what_may_change(section: str, fields: dict[str, Any]) -> None:
    changed = config(**{section: fields})
    check_unchanged(changed, record())
    assert fingerprint(changed, FACTS) == fingerprint(config(), FACTS)


@pytest.mark.parametrize(
    ("section", "fields", "line"),
    [
        pytest.param("training", {"seed": 8}, "spec.training.seed: 7 in the folder, 8 now", id="changed"),
        pytest.param(
            "training", {"maxLength": 32}, "spec.training.maxLength: absent in the folder, 32 now", id="added"
        ),
        pytest.param(
            "dataset",
            {"train": [{"uri": "./other.csv"}]},
            'spec.dataset.train[0].uri: "./rows.csv" in the folder, "./other.csv" now',
            id="in a list",
        ),
        pytest.param(
            "output",
            {"mergeAdapter": True},
            "spec.output.mergeAdapter: false in the folder, true now",
            id="what the model is",
        ),
    ],
)
def test_what_may_not_change(section: str, fields: dict[str, Any], line: str) -> None:
    changed = config(**{section: fields})
    with pytest.raises(ConfigError) as caught:
        check_unchanged(changed, record())
    assert caught.value.message == f"/runs/quick/run holds a run of another configuration:\n{line}"
    assert fingerprint(changed, FACTS) != fingerprint(config(), FACTS)


@pytest.mark.parametrize("name", ["data", "model"])
def test_inputs_may_not_change(name: str) -> None:
    now = Facts(**{"data": FACTS.data, "model": FACTS.model, "folder": FACTS.folder, name: {"sha256": "f" * 64}})
    check_same_data(FACTS, record())
    with pytest.raises(ConfigError, match=f"the {name} changed since this run began"):
        check_same_data(now, record())
