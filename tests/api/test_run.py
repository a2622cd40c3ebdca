"""RunConfig: what a spec asks for wherever it is carried out, and what an older trainer is told of it."""

from typing import Any

import pytest

from finetune_api.job import FineTuneJobSpec
from finetune_api.run import JobIdentity, RunConfig

SPEC: dict[str, Any] = {
    "task": "text-classification",
    "model": {"uri": "pkg://package/model"},
    "dataset": {"train": [{"uri": "pkg://package/train.csv"}]},
}
ADDED = ("hang_timeout_seconds", "base_folder", "output.merge_adapter")
"""Fields that an imagined older trainer does not know."""


def config_of(**spec: Any) -> RunConfig:
    job = JobIdentity(namespace="team-a", name="reviews", uid="0a1b2")
    return RunConfig.of(FineTuneJobSpec.model_validate(SPEC | spec), job=job, folder="/r", checkpoint_folder="/r/c")


def test_a_run_has_what_the_policy_and_the_trainer_of_its_spec_say() -> None:
    plain = config_of()
    assert (plain.hang_timeout_seconds, plain.own_program) == (1800, False)
    asked = config_of(runPolicy={"hangTimeoutSeconds": 0}, trainer={"command": ["python"]})
    assert (asked.hang_timeout_seconds, asked.own_program) == (0, True)


@pytest.mark.parametrize(
    ("spec", "left_out"),
    [
        pytest.param({}, {"hangTimeoutSeconds", "output.mergeAdapter"}, id="nothing is asked for"),
        pytest.param({"runPolicy": {"hangTimeoutSeconds": 0}}, {"output.mergeAdapter"}, id="another time is asked for"),
        pytest.param(
            {"output": {"mergeAdapter": True}}, {"hangTimeoutSeconds"}, id="a field of a section is asked for"
        ),
    ],
)
def test_an_older_trainer_is_not_told_of_fields_at_their_defaults(spec: dict[str, Any], left_out: set[str]) -> None:
    config = config_of(**spec)
    document, whole = config.for_any_trainer(ADDED), config.to_dict()
    assert paths(whole) - paths(document) == left_out
    assert RunConfig.model_validate(document) == config


def paths(document: dict[str, Any], place: str = "") -> set[str]:
    """The paths of all values."""
    found: set[str] = set()
    for name, item in document.items():
        found |= paths(item, f"{place}{name}.") if isinstance(item, dict) else {f"{place}{name}"}
    return found
