"""A run that succeeded arrives in an object store whole, and nothing is sent twice.

Against a real S3 server that checks signatures and takes uploads in parts.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.pushing import object_store
from finetune_trainer.pushing.content import Content
from finetune_trainer.pushing.object_store import MANIFEST, PARTIAL
from finetune_trainer.pushing.places import Place, Pushed
from support.finished_run import PROVENANCE, a_finished_run, contents
from support.s3_server import S3Server

FIELD = "spec.output.pushTo"
PLACE = Place("s3://models/team-a/reviews", FIELD)
DOCUMENTS = {"README.md", "evaluation.json", "run.json"}
MODEL = {"model/config.json", "model/tokenizer.json", "model/model.safetensors"}


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server whose bucket `models` is the folder tmp_path/s3/models."""
    (tmp_path / "s3" / "models").mkdir(parents=True)
    (tmp_path / "metadata").mkdir()
    with S3Server(tmp_path / "s3", tmp_path / "server", tmp_path / "metadata") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """What the place holds, seen from the server's side."""
    return tmp_path / "s3" / "models" / "team-a" / "reviews"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRIES", 0)


def push(run: Path, place: Place = PLACE) -> Pushed:
    return object_store.push(place, Content.of(run))


def sent(server: S3Server, before: int = 0) -> list[str]:
    """What was written or removed since, without the server's path."""
    changes = [request for request in server.requests[before:] if request.split()[0] in ("PUT", "POST", "DELETE")]
    return [request.replace("/models/team-a/reviews/", "") for request in changes]


def files_of(folder: Path, run: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(run).items() if name in contents(folder)}


def test_a_model_arrives_with_its_documents_and_a_manifest_of_them(s3: S3Server, bucket: Path, tmp_path: Path) -> None:
    run = a_finished_run(tmp_path / "run")
    pushed = push(run)
    stored = contents(bucket)
    manifest = stored.pop(MANIFEST)
    assert stored.keys() == DOCUMENTS | MODEL
    assert stored == {name: contents(run)[name] for name in stored}
    assert json.loads(manifest) == {
        "version": "v1",
        "created": "2025-06-15T15:06:40Z",
        "provenance": PROVENANCE,
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in stored.items()
        },
    }
    assert pushed == Pushed(PLACE.uri, f"sha256:{hashlib.sha256(manifest).hexdigest()}")
    assert sent(s3)[-2:] == [f"PUT {MANIFEST}", "POST /models"], "all is there when it is written; then one is removed"


@pytest.mark.usefixtures("s3")
def test_a_place_for_the_whole_run_also_gets_its_report(bucket: Path, tmp_path: Path) -> None:
    """Nothing of what is only about the folder here."""
    push(a_finished_run(tmp_path / "run"), Place(PLACE.uri, "spec.output.uri", whole=True))
    assert contents(bucket).keys() == DOCUMENTS | MODEL | {MANIFEST, "report.html", "errors.jsonl"}


def test_a_second_push_sends_nothing(s3: S3Server, tmp_path: Path) -> None:
    run = a_finished_run(tmp_path / "run")
    first = push(run)
    before = len(s3.requests)
    assert push(run) == first
    assert sent(s3, before) == []


def test_another_model_replaces_only_what_differs(s3: S3Server, bucket: Path, tmp_path: Path) -> None:
    """What the older model had and this one does not is removed; what somebody else put there stays."""
    push(a_finished_run(tmp_path / "1", **{"vocab.txt": b"a"}))
    (bucket / "notes.txt").write_text("mine")
    before = len(s3.requests)
    second = a_finished_run(tmp_path / "2", seed=2)
    push(second)
    stored = contents(bucket)
    assert stored.keys() == DOCUMENTS | MODEL | {MANIFEST, "notes.txt"}
    assert files_of(bucket, second) == {name: stored[name] for name in DOCUMENTS | MODEL}
    written = {request.split()[1].partition("?")[0] for request in sent(s3, before) if request.startswith("PUT")}
    assert written == {PARTIAL, "evaluation.json", "model/model.safetensors", MANIFEST}


@pytest.mark.usefixtures("s3")
def test_a_file_that_was_damaged_in_the_store_is_sent_again(bucket: Path, tmp_path: Path) -> None:
    run = a_finished_run(tmp_path / "run")
    push(run)
    (bucket / "model" / "model.safetensors").write_bytes(b"short")
    push(run)
    assert contents(bucket)["model/model.safetensors"] == contents(run)["model/model.safetensors"]


@pytest.mark.usefixtures("impatient")
def test_a_push_that_breaks_leaves_no_manifest_and_goes_on_where_it_was(
    s3: S3Server, bucket: Path, tmp_path: Path
) -> None:
    """The server is killed once the first of two large files is there."""
    run = a_finished_run(tmp_path / "run", megabytes=48, **{"a.safetensors": b"x" * (9 << 20)})
    push(a_finished_run(tmp_path / "older", seed=2))
    failures: list[RunError] = []

    def first_push() -> None:
        try:
            push(run)
        except RunError as error:
            failures.append(error)

    pushing = threading.Thread(target=first_push)
    pushing.start()
    _wait_until(lambda: "model/a.safetensors" in json.loads((bucket / PARTIAL).read_text())["files"])
    s3.stop()
    pushing.join(60)
    assert [type(failure) for failure in failures] == [Unavailable]
    assert failures[0].message.startswith(f"{FIELD}: the store did not take {PLACE.uri}: ")
    assert not (bucket / MANIFEST).exists(), "neither the older model nor the new one is whole"
    with s3:
        before = len(s3.requests)
        pushed = push(run)
        assert "PUT model/a.safetensors" not in [request.partition("?")[0] for request in sent(s3, before)]
        assert pushed.digest == f"sha256:{hashlib.sha256((bucket / MANIFEST).read_bytes()).hexdigest()}"
        assert files_of(bucket, run) == {
            name: contents(run)[name] for name in {*DOCUMENTS, *MODEL, "model/a.safetensors"}
        }
        assert not (bucket / PARTIAL).exists()


def _wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, KeyError):
            if condition():
                return
        time.sleep(0.002)
    raise AssertionError("it did not come to that")


@pytest.mark.usefixtures("s3")
def test_a_check_before_training_leaves_nothing(bucket: Path) -> None:
    object_store.check(PLACE)
    assert not bucket.exists() or contents(bucket) == {}


@pytest.mark.parametrize("do", [object_store.check, lambda place: push(Path("unused"), place)], ids=["check", "push"])
@pytest.mark.parametrize(
    ("uri", "environment", "error", "reason", "message", "hint"),
    [
        pytest.param(
            "s3://models/team-a/reviews",
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            AuthError,
            "NotAllowed",
            "the store does not let us write to s3://models/team-a/reviews: SignatureDoesNotMatch",
            "name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in spec.output.secretRef",
            id="wrong secret",
        ),
        pytest.param(
            "s3://modles/reviews",
            {},
            ConfigError,
            "NotFound",
            "the store has no modles: NoSuchBucket",
            "check the bucket's name, AWS_REGION and AWS_ENDPOINT_URL",
            id="no such bucket",
        ),
        pytest.param(
            "s3://models/a/../b",
            {},
            ConfigError,
            "InvalidUri",
            "s3://models/a/../b is no path of a store",
            "write it without .. and //",
            id="out of its folder",
        ),
        pytest.param(
            "s3://models/reviews",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            Unavailable,
            "StoreUnavailable",
            "the store did not take s3://models/reviews: Generic S3 error: Error performing",
            "see that the store can be reached",
            id="nothing listens",
        ),
        pytest.param(
            "az://models/reviews",
            {},
            ConfigError,
            "Refused",
            "the store did not take az://models/reviews: Generic MicrosoftAzure error: Account must be specified",
            "AZURE_STORAGE_ACCOUNT_NAME",
            id="Azure without an account",
        ),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_what_a_store_may_answer(
    do: Callable[[Place], object],
    uri: str,
    environment: dict[str, str],
    error: type[RunError],
    reason: str,
    message: str,
    hint: str,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same before training and after it."""
    a_finished_run(tmp_path / "unused", megabytes=0.1)
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError) as caught:
        do(Place(uri, FIELD))
    assert (type(caught.value), caught.value.reason) == (error, reason), caught.value.message
    assert caught.value.message.startswith(f"{FIELD}: {message}")
    assert hint in (caught.value.hint or "")
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in f"{caught.value.message} {caught.value.hint}"
