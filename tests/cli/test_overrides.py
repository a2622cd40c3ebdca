"""`--set` changes single fields of a manifest, with values as YAML understands them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.manifest import InvalidManifest
from finetune_cli.overrides import apply_overrides

MANIFEST = {"spec": {"task": "t", "dataset": {"train": [{"uri": "a"}]}}}


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        pytest.param(["spec.task=u"], {"spec": {**MANIFEST["spec"], "task": "u"}}, id="an existing field"),
        pytest.param(
            ["spec.training.learningRate=1e-4", "spec.training.seed=7"],
            {"spec": {**MANIFEST["spec"], "training": {"learningRate": 0.0001, "seed": 7}}},
            id="fields of an absent section, as numbers",
        ),
        pytest.param(
            ["spec.dataset.train[0].uri=b"],
            {"spec": {"task": "t", "dataset": {"train": [{"uri": "b"}]}}},
            id="an entry of a list",
        ),
        pytest.param(
            ["spec.evaluation={strategy: Steps, steps: 5}"],
            {"spec": {**MANIFEST["spec"], "evaluation": {"strategy": "Steps", "steps": 5}}},
            id="a whole section",
        ),
        pytest.param(["spec.task=null"], {"spec": {**MANIFEST["spec"], "task": None}}, id="null removes"),
    ],
)
def test_fields_are_set(assignments: list[str], expected: dict[str, Any]) -> None:
    assert apply_overrides(MANIFEST, assignments) == expected


def test_the_manifest_itself_is_left_alone() -> None:
    apply_overrides(MANIFEST, ["spec.dataset.train[0].uri=b"])
    assert MANIFEST == {"spec": {"task": "t", "dataset": {"train": [{"uri": "a"}]}}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        pytest.param("spec.task", "--set spec.task: has no value (write --set path.to.field=value)", id="no value"),
        pytest.param(
            "spec.task.deep=1",
            "--set spec.task.deep=1: task holds 't', not an object (shorten the path)",
            id="below a plain value",
        ),
        pytest.param(
            "spec.dataset.train[3].uri=b",
            "--set spec.dataset.train[3].uri=b: '3' is no index of a list of 1 (count from 0)",
            id="past the end of a list",
        ),
    ],
)
def test_an_assignment_without_a_place_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        apply_overrides(MANIFEST, [assignment])
    assert str(refused.value) == message
