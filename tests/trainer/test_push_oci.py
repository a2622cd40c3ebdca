"""A model arrives in a registry as an artifact that oras pulls, with its provenance, and no blob is sent twice.

Against the real registry of the distribution project: open, behind a password, and behind tokens.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from oras.provider import Registry

from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.pushing import oci
from finetune_trainer.pushing.content import Content
from finetune_trainer.pushing.places import Place, Pushed
from support.finished_run import PROVENANCE, a_finished_run, as_model, contents
from support.registry_server import PASSWORD, USER, Access, RegistryServer

FIELD = "spec.output.pushTo"
CREDENTIALS = {"OCI_USERNAME": USER, "OCI_PASSWORD": PASSWORD}
Start = Callable[[Access], RegistryServer]


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in (*CREDENTIALS, "OCI_CONFIG_JSON", "OCI_PLAIN_HTTP"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda access: stack.enter_context(RegistryServer(tmp_path / "registry", access))


@pytest.fixture
def registry(start: Start) -> RegistryServer:
    return start(Access.OPEN)


def place(registry: RegistryServer, name: str = "team-a/reviews:v1") -> Place:
    return Place(f"oci://{registry.host}/{name}", FIELD)


def push(registry: RegistryServer, run: Path, name: str = "team-a/reviews:v1") -> Pushed:
    return oci.push(place(registry, name), Content.of(run))


def manifest(registry: RegistryServer, name: str = "team-a/reviews", reference: str = "v1") -> dict[str, Any]:
    url = f"http://{registry.host}/v2/{name}/manifests/{reference}"
    with urlopen(Request(url, headers={"Accept": oci.MANIFEST})) as response:
        found: dict[str, Any] = json.load(response)
    return found


def pulled(registry: RegistryServer, reference: str, folder: Path) -> dict[str, bytes]:
    Registry(insecure=True).pull(f"{registry.host}/{reference}", outdir=str(folder))
    return contents(folder)


def sent(registry: RegistryServer, before: int = 0) -> list[str]:
    return [request for request in registry.requests[before:] if request.split()[0] in ("PUT", "POST", "PATCH")]


def test_a_model_is_an_artifact_that_oras_pulls(registry: RegistryServer, tmp_path: Path) -> None:
    """By tag and by digest, files in folders too."""
    run = a_finished_run(tmp_path / "run", **{"encoders/text/config.json": b"{}"})
    pushed = push(registry, run)
    assert pulled(registry, "team-a/reviews:v1", tmp_path / "by-tag") == as_model(run)
    assert pushed.uri == f"oci://{registry.host}/team-a/reviews@{pushed.digest}"
    assert pulled(registry, f"team-a/reviews@{pushed.digest}", tmp_path / "by-digest") == as_model(run)


def test_the_artifact_follows_the_specification_for_models_and_tells_its_provenance(
    registry: RegistryServer, tmp_path: Path
) -> None:
    push(registry, a_finished_run(tmp_path / "run"))
    found = manifest(registry)
    layers = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in found["layers"]}
    assert (found["mediaType"], found["artifactType"]) == (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.cncf.model.manifest.v1+json",
    )
    assert layers == {
        "README.md": "application/vnd.cncf.model.doc.v1.raw",
        "config.json": "application/vnd.cncf.model.weight.config.v1.raw",
        "evaluation.json": "application/vnd.cncf.model.doc.v1.raw",
        "model.safetensors": "application/vnd.cncf.model.weight.v1.raw",
        "run.json": "application/vnd.cncf.model.doc.v1.raw",
        "tokenizer.json": "application/vnd.cncf.model.weight.config.v1.raw",
    }
    assert found["annotations"] == {
        "org.opencontainers.image.created": "2025-06-15T15:06:40Z",
        "org.opencontainers.image.title": "reviews",
        **{f"finetune.dev/{name}": value for name, value in PROVENANCE.items()},
    }
    with urlopen(f"http://{registry.host}/v2/team-a/reviews/blobs/{found['config']['digest']}") as response:
        assert json.load(response) == {
            "descriptor": {"createdAt": "2025-06-15T15:06:40Z", "name": "reviews", "family": "bert"},
            "config": {"format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in found["layers"]]},
        }


def test_a_second_push_sends_nothing(registry: RegistryServer, tmp_path: Path) -> None:
    run = a_finished_run(tmp_path / "run")
    first = push(registry, run)
    before = len(registry.requests)
    assert push(registry, run) == first
    assert sent(registry, before) == []


def test_another_tag_sends_only_a_manifest(registry: RegistryServer, tmp_path: Path) -> None:
    run = a_finished_run(tmp_path / "run")
    first, before = push(registry, run), len(registry.requests)
    assert push(registry, run, "team-a/reviews").digest == first.digest
    assert sent(registry, before) == ["PUT /v2/team-a/reviews/manifests/latest"]


def test_a_push_that_breaks_leaves_no_tag_and_goes_on_where_it_was(
    registry: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry is killed when the weights are there and the last file is not."""
    run = a_finished_run(tmp_path / "run")
    upload = oci.Client.put_upload

    def then_killed(self: oci.Client, blob: str, *arguments: Any) -> Any:
        done = upload(self, blob, *arguments)
        if blob.endswith(".safetensors"):
            registry.stop()
        return done

    monkeypatch.setattr(oci.Client, "put_upload", then_killed)
    with pytest.raises(Unavailable) as caught:
        push(registry, run)
    assert caught.value.message.startswith(f"{FIELD}: the registry of {place(registry).uri} did not answer: ")
    monkeypatch.undo()
    with registry:
        before = len(registry.requests)
        with pytest.raises(OSError, match="404"):
            manifest(registry)
        push(registry, run)
        blobs = [request for request in sent(registry, before) if request.startswith("PUT") and "/blobs/" in request]
        assert len(blobs) == 3, "run.json, tokenizer.json and the configuration"
        assert pulled(registry, "team-a/reviews:v1", tmp_path / "pulled") == as_model(run)


def docker_configuration(registry: RegistryServer, password: str = PASSWORD) -> str:
    known = base64.b64encode(f"{USER}:{password}".encode()).decode()
    return json.dumps({"auths": {registry.host: {"auth": known}}})


@pytest.mark.parametrize("access", [Access.PASSWORD, Access.TOKEN])
@pytest.mark.parametrize("how", ["variables", "a configuration in a variable", "a configuration in a file"])
def test_who_knows_the_password_may_push(
    access: Access, how: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, run = start(access), a_finished_run(tmp_path / "run")
    if how == "variables":
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
    elif how == "a configuration in a variable":
        monkeypatch.setenv("OCI_CONFIG_JSON", docker_configuration(registry))
    else:
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(docker_configuration(registry))
    oci.check(place(registry))
    first, before = push(registry, run), len(registry.requests)
    assert push(registry, run) == first
    assert sent(registry, before) == []


def test_a_token_that_runs_out_during_the_push_is_renewed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens last minutes, uploads of large models longer."""
    registry = start(Access.TOKEN)
    tokens = registry.tokens
    assert tokens is not None
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    upload = oci.Client.put_upload

    def slow(self: oci.Client, *arguments: Any) -> Any:
        done = upload(self, *arguments)
        self.authorization = f"Bearer {tokens.token([], seconds=-120)}"
        return done

    monkeypatch.setattr(oci.Client, "put_upload", slow)
    run = a_finished_run(tmp_path / "run")
    push(registry, run)
    assert len(tokens.given) > len(as_model(run))


@pytest.mark.parametrize("access", [Access.PASSWORD, Access.TOKEN])
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nobody"),
        pytest.param({"OCI_USERNAME": USER, "OCI_PASSWORD": "wrong"}, id="wrong password"),
        pytest.param({"OCI_CONFIG_JSON": '{"auths": {"registry.example": {"auth": "eDp5"}}}'}, id="another registry's"),
    ],
)
@pytest.mark.parametrize(
    "do", [oci.check, lambda place: oci.push(place, Content.of(Path("run")))], ids=["check", "push"]
)
def test_who_does_not_know_the_password_may_not(
    access: Access,
    environment: dict[str, str],
    do: Callable[[Place], object],
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = start(access)
    a_finished_run(tmp_path / "run", megabytes=0.1)
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AuthError) as caught:
        do(place(registry))
    assert caught.value.message.startswith(f"{FIELD}: the registry does not let us push to {place(registry).uri}: ")
    assert "OCI_USERNAME and OCI_PASSWORD, or OCI_CONFIG_JSON, in spec.output.secretRef" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("uri", "environment", "error", "reason", "message", "hint"),
    [
        pytest.param(
            "oci://team-a/reviews:v1", {}, ConfigError, "InvalidUri", "oci://team-a/reviews:v1 is no", "", id="no host"
        ),
        pytest.param(
            "oci://127.0.0.1:9/Team/reviews",
            {},
            ConfigError,
            "InvalidUri",
            "oci://127.0.0.1:9/Team/reviews is no repository of a registry",
            "in small letters",
            id="capitals",
        ),
        pytest.param(
            f"oci://127.0.0.1:9/reviews@sha256:{'0' * 64}", {}, ConfigError, "InvalidUri", "oci://", "", id="by digest"
        ),
        pytest.param(
            "oci://127.0.0.1:9/reviews",
            {},
            Unavailable,
            "RegistryUnavailable",
            "the registry of oci://127.0.0.1:9/reviews did not answer: ",
            "see that the registry can be reached",
            id="nothing listens",
        ),
        pytest.param(
            "oci://127.0.0.1:9/reviews",
            {"OCI_CONFIG_JSON": "user:password"},
            ConfigError,
            "InvalidCredentials",
            "OCI_CONFIG_JSON is not a Docker configuration",
            "auths",
            id="no configuration",
        ),
    ],
)
def test_a_place_that_cannot_be_used(
    uri: str,
    environment: dict[str, str],
    error: type[RunError],
    reason: str,
    message: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError) as caught:
        oci.check(Place(uri, FIELD))
    assert (type(caught.value), caught.value.reason) == (error, reason), caught.value.message
    assert caught.value.message.startswith(f"{FIELD}: {message}")
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(("setting", "spoken"), [("false", "https"), ("true", "http")])
def test_plain_http_is_spoken_where_it_is_asked_for(setting: str, spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_PLAIN_HTTP", setting)
    assert oci.Client(Place("oci://registry.example:5000/reviews", FIELD)).prefix == spoken


def test_a_check_before_training_leaves_nothing(registry: RegistryServer) -> None:
    oci.check(place(registry))
    assert not list((registry.folder / "blobs").rglob("_uploads/*/data"))
