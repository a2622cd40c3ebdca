"""Which places a run pushes to, and which of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.run import RunConfig
from finetune_trainer.pushing.content import Content
from finetune_trainer.pushing.places import Place, places
from support.finished_run import a_finished_run
from support.runs import a_run

COPY, OUTPUT = "spec.output.pushTo", "spec.output.uri"


@pytest.mark.parametrize(
    ("output_uri", "push_to", "expected"),
    [
        pytest.param(None, None, [], id="nowhere"),
        pytest.param("pvc://claim/path", None, [], id="a volume is no place to push to"),
        pytest.param("pvc://claim/path", "hf://a/b", [Place("hf://a/b", COPY)], id="a copy of what is on a volume"),
        pytest.param("s3://b/out", None, [Place("s3://b/out", OUTPUT, whole=True)], id="instead of a volume"),
        pytest.param(
            "gs://b/out",
            "oci://r.example/m:v1",
            [Place("gs://b/out", OUTPUT, whole=True), Place("oci://r.example/m:v1", COPY)],
            id="two: the copy is the last, and what the status tells",
        ),
        pytest.param("az://b/m", "az://b/m", [Place("az://b/m", OUTPUT, whole=True)], id="the same place once"),
    ],
)
def test_the_places_of_a_run(
    output_uri: str | None, push_to: str | None, expected: list[Place], tmp_path: Path
) -> None:
    config: dict[str, Any] = dict(a_run(tmp_path, "pvc://a", "pvc://b").config)
    config |= {"outputUri": output_uri, "output": {"pushTo": push_to}}
    assert places(RunConfig.model_validate(config)) == expected


def test_the_card_is_the_runs_own_where_an_adapter_brings_another(tmp_path: Path) -> None:
    """A library leaves a card full of gaps beside an adapter."""
    run = a_finished_run(tmp_path, megabytes=0.1, **{"README.md": b"[More Information Needed]"})
    (card,) = [file for file in Content.of(run).as_model() if file.name == "README.md"]
    assert card.path == run / "README.md"


def test_what_is_not_known_is_not_told(tmp_path: Path) -> None:
    """A model from a volume has no commit."""
    content = Content.of(a_finished_run(tmp_path, megabytes=0.1))
    record = {**content.record, "model": {**content.record["model"], "revision": None}, "versions": {}}
    told = Content(tmp_path, record).provenance()
    assert content.provenance().keys() - told.keys() == {"base-model-revision", "trainer-version"}
