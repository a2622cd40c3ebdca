"""`finetune check` gives the answers of the manifest table; tests/cluster asks a real API server for the same."""

from __future__ import annotations

import pytest

from finetune_api.manifest import InvalidManifest, parse_job, read_yaml
from support.manifest_table import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_check_answers_as_the_table_says(case: Case) -> None:
    try:
        parse_job(read_yaml(case.text))
        accepted = True
    except InvalidManifest:
        accepted = False
    assert accepted == case.accepted
