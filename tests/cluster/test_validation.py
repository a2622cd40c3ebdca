"""A real API server judges manifests as `finetune check` does, and reads their YAML the same way."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from finetune_api.manifest import read_yaml
from support.cluster.access import Access
from support.cluster.process import CommandFailed
from support.manifest_table import CASES, Case

pytestmark = pytest.mark.cluster


def dry_run(cluster: Access, text: str) -> tuple[dict[str, Any] | None, str]:
    """The object that the server would store, or None with its message."""
    try:
        stored = cluster.kubectl("create", "--dry-run=server", "--output=json", "--filename=-", stdin=text)
    except CommandFailed as refused:
        return None, str(refused)
    return json.loads(stored), ""


@pytest.fixture(scope="module")
def answers(installed_operator: Access) -> dict[str, tuple[dict[str, Any] | None, str]]:
    """The server's answer to each case of the table."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda case: dry_run(installed_operator, case.text), CASES)
        return dict(zip((case.title for case in CASES), found, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_api_server_answers_as_the_table_says(answers: dict[str, Any], case: Case) -> None:
    stored, message = answers[case.title]
    assert (stored is not None) == case.accepted, message


@pytest.mark.parametrize("case", [case for case in CASES if case.accepted], ids=lambda case: case.title)
def test_kubectl_reads_the_same_values(answers: dict[str, Any], case: Case) -> None:
    """1e-4 is a number, yes is true, and null stays null: in our reader and in kubectl's."""
    stored, _ = answers[case.title]
    assert stored is not None
    assert stored["spec"] == read_yaml(case.text)["spec"]


def test_a_path_of_one_machine_is_refused(installed_operator: Access) -> None:
    text = next(case.text for case in CASES if case.accepted).replace("pkg://encoder/model", "./encoder")
    stored, message = dry_run(installed_operator, text)
    assert stored is None
    assert "./path works with `finetune run` only" in message


def test_kubectl_explains_fields_with_their_defaults(installed_operator: Access) -> None:
    text = installed_operator.kubectl("explain", "finetunejob.spec.training.learningRate")
    assert "Peak learning rate. Default: 5e-05." in " ".join(text.split())
