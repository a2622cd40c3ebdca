"""The parts of the harness that only compute: keys of what is built, the audit log, image references, claims."""

import json
import shutil
from pathlib import Path

import pytest

from support.cluster import build, images
from support.cluster.access import split_reference
from support.cluster.audit import AuditEvent, parse
from support.cluster.layout import default_cache
from support.cluster.volumes import LocalClaim

CREATE_STATUS = {
    "stage": "ResponseComplete",
    "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
    "user": {"username": "someone"},
    "verb": "patch",
    "objectRef": {"resource": "finetunejobs", "subresource": "status", "namespace": "n", "name": "reviews"},
    "responseStatus": {"code": 200},
}


def line(**changes: object) -> str:
    return json.dumps({**CREATE_STATUS, **changes}) + "\n"


def test_an_audit_line_becomes_an_event() -> None:
    assert list(parse([line()])) == [
        AuditEvent("2026-01-01T00:00:00.000000Z", "someone", "patch", "finetunejobs/status", "n", "reviews", 200)
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(line(stage="ResponseStarted"), id="a watch that has only begun"),
        pytest.param(line(objectRef=None).replace('"objectRef": null, ', ""), id="no object"),
        pytest.param(line()[:40], id="a line that is still being written"),
    ],
)
def test_what_is_no_answered_request_for_an_object_is_left_out(text: str) -> None:
    assert list(parse([text])) == []


@pytest.mark.parametrize(
    ("verb", "writes"),
    [(verb, True) for verb in ("create", "update", "patch", "delete", "deletecollection")]
    + [(verb, False) for verb in ("get", "list", "watch")],
)
def test_which_verbs_write(verb: str, writes: bool) -> None:
    (event,) = parse([line(verb=verb)])
    assert event.writes is writes


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        pytest.param("ghcr.io/a/operator:1.0", ("ghcr.io/a/operator", "1.0"), id="registry"),
        pytest.param("127.0.0.1:5000/operator:1.0", ("127.0.0.1:5000/operator", "1.0"), id="registry with a port"),
    ],
)
def test_a_reference_is_a_repository_and_a_tag(reference: str, parts: tuple[str, str]) -> None:
    assert split_reference(reference) == parts


@pytest.mark.parametrize("reference", ["operator", "127.0.0.1:5000/operator"])
def test_a_reference_without_a_tag_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=f"image reference '{reference}' has no tag; write it as repository:tag"):
        split_reference(reference)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A repository with one file in each place that goes into an image."""
    for name in images.BUILD_FILES:
        (tmp_path / name).write_text(name)
    for name in images.SOURCES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("1")
    return tmp_path


@pytest.mark.parametrize("changed", [*images.BUILD_FILES, *(f"{name}/module.py" for name in images.SOURCES)])
def test_an_image_has_another_tag_when_an_input_changes(sources: Path, changed: str) -> None:
    before = images.source_key(images.OPERATOR, sources)
    (sources / changed).write_text("changed")
    assert images.source_key(images.OPERATOR, sources) != before


def test_an_image_has_the_same_tag_when_something_else_changes(sources: Path) -> None:
    before = images.source_key(images.OPERATOR, sources)
    (sources / "README.md").write_text("changed")
    (sources / "api" / "__pycache__").mkdir()
    (sources / "api" / "__pycache__" / "module.pyc").write_text("changed")
    assert images.source_key(images.OPERATOR, sources) == before


def test_the_two_images_have_different_tags(sources: Path) -> None:
    assert images.source_key(images.OPERATOR, sources) != images.source_key(images.TRAINER, sources)


def test_programs_have_another_key_when_a_source_or_flag_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "GO_MODULES", tmp_path)
    family = build.Family("family", ("./program",))
    (tmp_path / "family" / "program").mkdir(parents=True)
    keys = [build.key(family)]
    (tmp_path / "family" / "program" / "main.go").write_text("package main")
    keys.append(build.key(family))
    (tmp_path / "family" / "go.mod").write_text("module family")
    keys.append(build.key(family))
    keys.append(build.key(build.Family("family", ("./program",), "-s")))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        pytest.param({"FINETUNE_TEST_CACHE": "/big/disk", "XDG_CACHE_HOME": "/other"}, "/big/disk", id="chosen"),
        pytest.param({"XDG_CACHE_HOME": "/other"}, "/other/finetune-operator", id="the user's cache"),
        pytest.param({"HOME": "/home/someone"}, "/home/someone/.cache/finetune-operator", id="the default"),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], cache: str) -> None:
    for name in ("FINETUNE_TEST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_cache() == Path(cache)


def test_a_claims_files_are_those_of_its_directory(tmp_path: Path) -> None:
    claim = LocalClaim("namespace", "claim", tmp_path / "volume")
    (claim.directory / "models").mkdir(parents=True)
    (claim.directory / "models" / "config.json").write_text("{}")
    assert claim.files() == ["models/config.json"]
    assert claim.read("models/config.json") == b"{}"
    with pytest.raises(FileNotFoundError):
        claim.read("models/other.json")
    shutil.rmtree(claim.directory)
    assert claim.files() == []
