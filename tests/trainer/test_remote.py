"""What lies on a web server or in an object store is downloaded once, whole, or a message says what to change.

Over real connections: an HTTPS server with a certificate of its own, and a real S3 server that checks signatures.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store
from PIL import Image

from finetune_api.dataset import Source
from finetune_api.progress import ExitCode
from finetune_trainer.data import columns, stores
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.remote import ENV_DOWNLOADS, fetch
from finetune_trainer.data.sources import Loaded, load_source
from finetune_trainer.data.uri import Places
from finetune_trainer.errors import AuthError, ConfigError, DataError, RunError, Unavailable
from finetune_trainer.model_folder import Needs, Part, find_folder
from support.https_server import TORN, HttpsServer
from support.models import sentences
from support.runs import ARun, WarmTrainer
from support.s3_server import S3Server

FIELD = "spec.dataset.train[0]"
TEXTS = Roles({"text": columns.text, "label": columns.label}, (("text", "label"),))
IMAGES = Roles({"image": columns.image, "label": columns.label}, (("image", "label"),))
BERT = Needs(("AutoModelForSequenceClassification",), (Part.TOKENIZER,))
NOWHERE = "http://127.0.0.1:9"
"""Where nothing listens."""


@pytest.fixture(autouse=True)
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "downloads"
    monkeypatch.setenv(ENV_DOWNLOADS, str(folder))
    return folder


def load(uri: str, roles: Roles = TEXTS) -> Loaded:
    return load_source(Source(uri=uri), roles, {}, Places(), FIELD)


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def check(error: RunError, expected: type[RunError], reason: str, message: str, hint: str) -> None:
    """The whole message, save for what a library says after it."""
    assert (type(error), error.reason) == (expected, reason), error.message
    assert error.message.startswith(message)
    assert hint in (error.hint or "")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpsServer]:
    """A server over tmp_path/web whose certificate is trusted."""
    folder, certificates = tmp_path / "web", tmp_path / "certificates"
    folder.mkdir()
    certificates.mkdir()
    redirects = {"latest.csv": "/rows.csv", "insecure.csv": "http://127.0.0.1/rows.csv", "round": "/round"}
    with HttpsServer(folder, certificates, redirects) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        (folder / "rows.csv").write_text("text,label\na,b\n")
        yield server


@pytest.mark.parametrize("name", ["rows.csv", "latest.csv", "rows.csv?version=2"])
def test_a_file_from_the_web(name: str, web: HttpsServer) -> None:
    """Also by a redirect; its format follows from the name in the URI, and it is downloaded once."""
    uri = f"{web.url}/{name}"
    first = load(uri)
    assert [dict(row.values) for row in first.rows] == [{"text": "a", "label": "b"}]
    requests = list(web.requested)
    assert load(uri) == first
    assert web.requested == requests


def archive_of(name: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            for file, content in files.items():
                archive.writestr(file, content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w" if name.endswith(".tar") else "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"x/a": b"1", "y/b": b"2"}, {"x/a": b"1", "y/b": b"2"}, id="two folders"),
        pytest.param({"top/x/a": b"1", "__MACOSX/a": b""}, {"x/a": b"1"}, id="one folder that holds all"),
    ],
)
def test_an_archive_stands_for_the_folder_it_holds(
    name: str, files: dict[str, bytes], expected: dict[str, bytes], web: HttpsServer, tmp_path: Path
) -> None:
    (tmp_path / "web" / name).write_bytes(archive_of(name, files))
    assert files_of(fetch(f"{web.url}/{name}", FIELD)) == expected


def test_an_archive_with_one_file_stands_for_the_file(web: HttpsServer, tmp_path: Path) -> None:
    (tmp_path / "web" / "a.zip").write_bytes(archive_of("a.zip", {"data/rows.csv": b"text,label\na,b\n"}))
    (tmp_path / "web" / "b.zip").write_bytes(archive_of("b.zip", {"rows.csv": b"text,label\na,b\n"}))
    assert len(load(f"{web.url}/b.zip").rows) == 1
    with pytest.raises(ConfigError, match="is a folder"):
        load(f"{web.url}/a.zip")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.tar", archive_of("a.tar", {"../../evil": b"1"}), id="out of its folder"),
        pytest.param("a.tar.gz", b"no archive", id="not an archive"),
        pytest.param("a.zip", archive_of("a.zip", {"a": b"1"})[:-8], id="cut"),
    ],
)
def test_an_archive_that_cannot_be_unpacked(
    name: str, content: bytes, web: HttpsServer, tmp_path: Path, downloads: Path
) -> None:
    (tmp_path / "web" / name).write_bytes(content)
    with pytest.raises(DataError, match="is not an archive that can be unpacked"):
        fetch(f"{web.url}/{name}", FIELD)
    assert list(downloads.iterdir()) == []
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("path", "error", "reason", "message", "hint"),
    [
        pytest.param("row.csv", ConfigError, "NotFound", "{uri} does not exist", "check the link", id="not there"),
        pytest.param("401", AuthError, "NotAllowed", "{uri}: the server answered 401", "secretRef", id="login"),
        pytest.param("403", AuthError, "NotAllowed", "{uri}: the server answered 403", "secretRef", id="forbidden"),
        pytest.param(
            "400", ConfigError, "Refused", "{uri}: the server answered 400", "check the link", id="bad request"
        ),
        pytest.param("429", Unavailable, "StoreUnavailable", "{uri}: the server answered 429", "later", id="too many"),
        pytest.param("503", Unavailable, "StoreUnavailable", "{uri}: the server answered 503", "later", id="down"),
        pytest.param(
            TORN, Unavailable, "StoreUnavailable", "{uri} could not be downloaded", "can be reached", id="torn"
        ),
        pytest.param(
            "insecure.csv",
            ConfigError,
            "InvalidUri",
            "{uri} could not be downloaded: redirected to http://127.0.0.1",
            "by https",
            id="redirect to plain HTTP",
        ),
        pytest.param(
            "round", ConfigError, "InvalidUri", "{uri} could not be downloaded", "by https", id="endless redirects"
        ),
        pytest.param(
            "a/%2e%2e/b", ConfigError, "InvalidUri", "{uri} leaves its folder", "without ..", id="out of its folder"
        ),
    ],
)
def test_what_a_web_server_may_answer(
    path: str, error: type[RunError], reason: str, message: str, hint: str, web: HttpsServer, downloads: Path
) -> None:
    """Nothing is left that a later attempt could take for the file."""
    uri = f"{web.url}/{path}"
    with pytest.raises(RunError) as caught:
        fetch(uri, FIELD)
    check(caught.value, error, reason, f"{FIELD}: {message.format(uri=uri)}", hint)
    assert not downloads.exists() or list(downloads.iterdir()) == []


def test_a_server_that_is_not_trusted(web: HttpsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ConfigError) as caught:
        fetch(f"{web.url}/rows.csv", FIELD)
    check(caught.value, ConfigError, "NotTrusted", f"{FIELD}: {web.url}/rows.csv could not be", "SSL_CERT_FILE")


def test_a_server_that_is_not_there() -> None:
    uri = "https://127.0.0.1:9/rows.csv"
    with pytest.raises(Unavailable) as caught:
        fetch(uri, FIELD)
    check(caught.value, Unavailable, "StoreUnavailable", f"{FIELD}: {uri} could not be downloaded", "reached")


@pytest.mark.parametrize(
    ("uri", "environment", "error", "reason", "message", "hint"),
    [
        pytest.param(
            "az://container/rows.csv",
            {},
            ConfigError,
            "Refused",
            "the store did not give az://container/rows.csv: Generic MicrosoftAzure error: Account must be specified",
            "AZURE_STORAGE_ACCOUNT_NAME",
            id="Azure without an account",
        ),
        pytest.param(
            "gs://bucket/rows.csv",
            {"GOOGLE_SERVICE_ACCOUNT_KEY": "no JSON"},
            ConfigError,
            "Refused",
            "the store did not give gs://bucket/rows.csv: Generic GCS error: GCP credential error",
            "credentials",
            id="Google with a key that is none",
        ),
        pytest.param(
            "s3://bucket/rows.csv",
            {"AWS_ENDPOINT_URL": NOWHERE, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            Unavailable,
            "StoreUnavailable",
            "the store did not give s3://bucket/rows.csv: Generic S3 error: Error performing HEAD",
            "see that the store can be reached, and check the bucket's name, AWS_REGION and AWS_ENDPOINT_URL",
            id="S3 where nothing listens",
        ),
        pytest.param(
            "s3://bucket/a/../b",
            {},
            ConfigError,
            "InvalidUri",
            "s3://bucket/a/../b leaves its folder",
            "without ..",
            id="out of its folder",
        ),
    ],
)
def test_a_store_that_cannot_be_asked(
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
        fetch(uri, FIELD)
    check(caught.value, error, reason, f"{FIELD}: {message}", hint)


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server whose bucket `data` is the folder tmp_path/s3/data."""
    (tmp_path / "s3" / "data").mkdir(parents=True)
    with S3Server(tmp_path / "s3", tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def put_rows(folder: Path, count: int = 6) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in sentences(count)]
    (folder / "rows.jsonl").write_text("\n".join(lines))


@pytest.mark.torch
def test_rows_and_a_model_from_s3(s3: S3Server, tmp_path: Path, models: Callable[[str], Path]) -> None:
    """Who comes later, as the ranks do, gets them from the disk: also when the store is down."""
    bucket = tmp_path / "s3" / "data"
    put_rows(bucket)
    (bucket / "models").mkdir()
    (bucket / "models" / "bert").symlink_to(models("bert"))
    (bucket / "models" / "bert-large").mkdir()

    def both() -> tuple[Loaded, dict[str, bytes]]:
        model = find_folder("s3://data/models/bert", None, "spec.model.uri", BERT, Places())
        return load("s3://data/rows.jsonl"), files_of(model.path)

    rows, files = both()
    assert [(row.values["text"], row.values["label"]) for row in rows.rows] == sentences(6)
    assert files == files_of(models("bert"))
    requests = s3.requests
    s3.stop()
    assert both() == (rows, files)
    assert s3.requests == requests


@pytest.mark.torch
@pytest.mark.usefixtures("s3")
def test_a_folder_of_images_from_s3(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        folder = tmp_path / "s3" / "data" / "photos" / label
        folder.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(folder / f"{label}.png")
    rows = load("s3://data/photos/", IMAGES).rows
    assert [(row.values["image"].name, row.values["label"]) for row in rows] == [("cat.png", "cat"), ("dog.png", "dog")]


@pytest.mark.torch
def test_a_large_object_arrives_whole(s3: S3Server, tmp_path: Path) -> None:
    """In one request for many chunks, under a name that would end a URL's path."""
    content = bytes(range(256)) * 100_000
    (tmp_path / "s3" / "data" / "large #1?").write_bytes(content)
    fetched = fetch("s3://data/large #1?", FIELD)
    assert fetched.name == "large #1?"
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert len([request for request in s3.requests if request.startswith("GET /data/large")]) == 1


def test_an_object_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its listing and its bytes: neither the new content nor a mixture is taken for what was listed."""
    for name in ("s3/data", "metadata"):
        (tmp_path / name).mkdir(parents=True)
    with S3Server(tmp_path / "s3", tmp_path / "server", tmp_path / "metadata") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = S3Store.from_url("s3://data", client_options={"allow_http": True})
        store.put("rows.csv", b"text,label\na,b\n")
        listing = stores.look("s3://data/rows.csv", FIELD)
        store.put("rows.csv", b"text,label\nc,d\n")
        with pytest.raises(Unavailable) as caught:
            listing.save(tmp_path / "saved")
    check(caught.value, Unavailable, "Changed", f"{FIELD}: s3://data/rows.csv changed while it was read", "writes")
    assert not (tmp_path / "saved" / "rows.csv").exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("uri", "environment", "error", "reason", "message", "hint"),
    [
        pytest.param(
            "s3://data/row.jsonl",
            {},
            ConfigError,
            "NotFound",
            "s3://data/row.jsonl does not exist",
            "did you mean rows.jsonl? in the store there are: rows.jsonl",
            id="no such key",
        ),
        pytest.param(
            "s3://dta/rows.jsonl",
            {},
            ConfigError,
            "NotFound",
            "the store has no dta: NoSuchBucket",
            "check the bucket's name",
            id="no such bucket",
        ),
        pytest.param(
            "s3://data/rows.jsonl",
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            AuthError,
            "NotAllowed",
            "the store does not give out s3://data/rows.jsonl",
            "name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in spec.dataset.train[0].secretRef",
            id="wrong secret",
        ),
        pytest.param(
            "s3://data/models/",
            {"AWS_SKIP_SIGNATURE": "true"},
            AuthError,
            "NotAllowed",
            "the store does not give out s3://data/models/",
            "name a Secret",
            id="without a signature",
        ),
    ],
)
def test_what_s3_may_answer(
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
    put_rows(tmp_path / "s3" / "data")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError) as caught:
        load(uri)
    check(caught.value, error, reason, f"{FIELD}.uri: {message}", hint)
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.torch
def test_a_run_downloads_once_whatever_its_processes(
    s3: S3Server, web: HttpsServer, small_run: ARun, trainer: WarmTrainer, tmp_path: Path, models: Callable[[str], Path]
) -> None:
    """The supervisor gets the model and the rows, and both ranks find them."""
    (tmp_path / "s3" / "data" / "bert").symlink_to(models("bert"))
    put_rows(tmp_path / "web", 60)
    run = small_run.with_("model", uri="s3://data/bert").with_("dataset", train=[{"uri": f"{web.url}/rows.jsonl"}])
    environment: dict[str, Any] = {**s3.environment, "SSL_CERT_FILE": str(web.ca_file)}
    ended = trainer.run(run.with_("training", maxSteps=2, numTrainEpochs=None).with_processes(2), **environment)
    assert ended.code == ExitCode.DONE, ended.log
    assert web.requested == ["rows.jsonl"]
    assert s3.requests.count("GET /data/bert/model.safetensors") == 1
