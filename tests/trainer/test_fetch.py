"""What a run reads comes once into a folder that jobs share, and stays what it was for every attempt of the run.

Against servers that speak the protocols of the hub, of S3 and of the web over real connections; what a process promises
is shown with the real program, in which torch cannot be imported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from obstore.store import S3Store

from finetune_api.progress import ExitCode, FailureClass, Outcome
from finetune_api.run import RunConfig
from finetune_trainer.data import stores
from finetune_trainer.data.prepare import load_data, places_of
from finetune_trainer.data.uri import local_path
from finetune_trainer.errors import ConfigError, RunError, StorageFull, Unavailable
from finetune_trainer.fetch import fetch_all
from finetune_trainer.fetching import lock, progress
from finetune_trainer.fetching.downloads import Downloads, Pin
from support.https_server import HttpsServer
from support.hub_mirror import HubMirror
from support.models import sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run
from support.s3_server import S3Server

MODEL = {
    "config.json": '{"model_type": "bert"}',
    "tokenizer.json": "{}",
    "model.safetensors": "weights" * 100,
    "tf_model.h5": "unneeded",
}
TRAIN = "spec.dataset.train[0].uri"
SECONDS = 60.0
LARGE = 20 << 16
"""Bytes that take as many pieces of the paced servers."""


@dataclass
class Job:
    """A FineTuneJob as its pods see it: the RunConfig of each attempt, and the cache that it shares."""

    root: Path
    uid: str = "0a1b2c3d-0000"
    run: int = 1
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own_program: bool = False

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def file(self) -> ARun:
        made = a_run(self.root / f"{self.uid}-{self.run}", "hf://owner/rows", "hf://owner/bert")
        document = {key: value for key, value in made.config.items() if key != "baseFolder"}
        document |= {"cacheFolder": str(self.cache), "ownProgram": self.own_program}
        document["job"] |= {"uid": self.uid, "run": self.run}
        return ARun(made.root, document | {name: {**document[name], **new} for name, new in self.sections.items()})

    @property
    def config(self) -> RunConfig:
        return RunConfig.model_validate(self.file().config)

    @property
    def log(self) -> Path:
        return self.file().root / "log"

    def pins(self) -> dict[str, Any]:
        pins: dict[str, Any] = json.loads((self.cache / "runs" / f"{self.uid}-{self.run}.json").read_text())
        return pins


def train_on(uri: str, **fields: str) -> dict[str, Any]:
    """Sections of a job whose model needs no download."""
    return {"model": {"uri": "file:///nowhere"}, "dataset": {"train": [{"uri": uri, **fields}]}}


def a_folder(path: Path, contents: Mapping[str, str]) -> Path:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def new(requests: list[str], action: Callable[[], Any]) -> list[str]:
    """What was requested meanwhile; `requests` grows as requests come."""
    before = len(requests)
    action()
    return requests[before:]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubMirror]:
    """A mirror in the place of the hub, with a model and rows, for this process and for those that it starts."""
    from huggingface_hub import constants

    with HubMirror() as mirror:
        template = mirror.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", mirror.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        mirror.publish("models", "owner/bert", a_folder(tmp_path / "bert", MODEL))
        mirror.publish("datasets", "owner/rows", a_folder(tmp_path / "rows", {"train.csv": "text,label\na,b\n"}))
        yield mirror


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server whose bucket `data` is the folder tmp_path/s3/data, with rows.csv."""
    a_folder(tmp_path / "s3" / "data", {"rows.csv": "text,label\nc,d\n"})
    with S3Server(tmp_path / "s3", tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpsServer]:
    """A server over tmp_path/web, which has rows.csv, whose certificate is trusted."""
    (tmp_path / "certificates").mkdir()
    with HttpsServer(
        a_folder(tmp_path / "web", {"rows.csv": "text,label\ne,f\n"}), tmp_path / "certificates"
    ) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        server.tags = True
        yield server


def start(job: Job, **environment: str) -> subprocess.Popen[str]:
    """The program in a pod of its own; torch cannot be imported."""
    run, blocked = job.file(), job.root / "blocked"
    a_folder(blocked / "torch", {"__init__.py": "raise RuntimeError('the download imported torch')"})
    own = {"FINETUNE_TERMINATION_LOG": str(run.root / "termination"), "PYTHONPATH": str(blocked)}
    own |= {"FINETUNE_RUN_CONFIG": str(run.write()), "FINETUNE_POD_NAME": f"pod-of-{job.uid}", **environment}
    command = [sys.executable, "-m", "finetune_trainer.fetch"]
    with job.log.open("w") as log:
        return subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen[str], job: Job) -> tuple[int, Outcome, str]:
    """Exit code, termination message and log."""
    process.wait(timeout=SECONDS)
    message = job.file().root / "termination"
    assert message.exists(), job.log.read_text()
    return process.returncode, Outcome.model_validate_json(message.read_text()), job.log.read_text()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {SECONDS} s"
        time.sleep(0.01)


def test_a_second_job_with_the_same_sources_downloads_nothing(
    hub: HubMirror, s3: S3Server, web: HttpsServer, tmp_path: Path
) -> None:
    """It asks each server which version there is now. Weights in other formats never come."""
    sources = {"train": [{"uri": "hf://owner/rows"}], "test": {"sources": [{"uri": "s3://data/rows.csv"}]}}
    dataset = sources | {"validation": {"sources": [{"uri": f"{web.url}/rows.csv"}]}}
    first = Job(tmp_path, sections={"dataset": dataset})
    second = Job(tmp_path, uid="ffff", sections={"dataset": dataset})
    fetch_all(first.config)
    assert set(first.pins()) == {
        "hf://owner/bert",
        "hf://datasets/owner/rows",
        "s3://data/rows.csv",
        f"{web.url}/rows.csv",
    }
    before = len(s3.requests)
    asked = new(hub.requested, lambda: fetch_all(second.config))
    assert sorted(asked) == ["GET /api/datasets/owner/rows", "GET /api/models/owner/bert"]
    assert s3.requests[before:] == ["HEAD /data/rows.csv"]
    assert web.answered == [200, 304]
    assert second.pins() == first.pins()
    weights = Path(first.pins()["hf://owner/bert"]["path"])
    assert sorted(path.name for path in weights.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.usefixtures("s3")
def test_what_the_pins_say(hub: HubMirror, tmp_path: Path) -> None:
    """Path, version, digest and bytes of each source, as programs of others read it."""
    commit = hub.publish("models", "owner/bert", tmp_path / "bert", branch="v2")
    (tmp_path / "s3" / "data" / "more").mkdir()
    for name in ("x.csv", "y.csv"):
        (tmp_path / "s3" / "data" / "more" / name).write_text("text,label\nc,d\n")
    model = {"uri": "hf://owner/bert", "revision": "v2"}
    job = Job(tmp_path, sections={"model": model, "dataset": {"train": [{"uri": "s3://data/more/"}]}})
    fetch_all(job.config)
    whole, rows = job.pins()["hf://owner/bert@v2"], job.pins()["s3://data/more/"]
    assert whole == {
        "path": str(tmp_path / "cache" / "hub" / "models--owner--bert" / "snapshots" / commit),
        "revision": commit,
        "digest": f"git:{commit}",
        "bytes": sum(len(MODEL[name]) for name in ("config.json", "tokenizer.json", "model.safetensors")),
    }
    assert sorted(path.name for path in Path(rows["path"]).iterdir()) == ["x.csv", "y.csv"]
    assert (rows["bytes"], rows["digest"].partition(":")[0], rows["revision"].partition(":")[0]) == (
        30,
        "sha256",
        "sha256",
    )


def test_a_commit_is_not_even_asked_for(hub: HubMirror, tmp_path: Path) -> None:
    commit = hub.publish("models", "owner/bert", tmp_path / "bert")
    rows = hub.publish("datasets", "owner/rows", tmp_path / "rows")
    pinned = {"uri": "hf://owner/rows", "revision": rows}
    sections = {"model": {"uri": "hf://owner/bert", "revision": commit}, "dataset": {"train": [pinned]}}
    fetch_all(Job(tmp_path, sections=sections).config)
    assert new(hub.requested, lambda: fetch_all(Job(tmp_path, uid="ffff", sections=sections).config)) == []


def test_later_attempts_use_what_the_first_did_although_the_branch_moved(hub: HubMirror, tmp_path: Path) -> None:
    """Without a request; only another run of the job sees what is new."""
    job, again = Job(tmp_path, sections=train_on("hf://owner/rows")), Job(tmp_path, run=2)
    fetch_all(job.config)
    before = job.pins()
    moved = a_folder(tmp_path / "moved", {"train.csv": "text,label\ng,h\n"})
    commit = hub.publish("datasets", "owner/rows", moved)
    assert new(hub.requested, lambda: fetch_all(job.config)) == []
    assert job.pins() == before
    fetch_all(again.config)
    assert again.pins()["hf://datasets/owner/rows"]["revision"] == commit
    assert Path(before["hf://datasets/owner/rows"]["path"], "train.csv").read_text() == "text,label\na,b\n"


@pytest.mark.usefixtures("s3")
def test_a_changed_object_is_another_content_beside_the_old_one(tmp_path: Path) -> None:
    """A running job keeps its own, and the same bytes under another name are kept once."""
    job, later = Job(tmp_path, sections=train_on("s3://data/rows.csv")), Job(tmp_path, uid="ffff")
    later.sections = job.sections
    fetch_all(job.config)
    (tmp_path / "s3" / "data" / "rows.csv").write_text("text,label\ni,j\nk,l\n")
    fetch_all(later.config)
    uri, places = "s3://data/rows.csv", places_of(job.config)
    assert local_path(uri, places, TRAIN).read_text() == "text,label\nc,d\n"
    assert local_path(uri, places_of(later.config), TRAIN).read_text() == "text,label\ni,j\nk,l\n"
    (tmp_path / "s3" / "data" / "copy").mkdir()
    (tmp_path / "s3" / "data" / "copy" / "rows.csv").write_text("text,label\ni,j\nk,l\n")
    copy = Job(tmp_path, uid="eeee", sections=train_on("s3://data/copy/rows.csv"))
    fetch_all(copy.config)
    assert copy.pins()["s3://data/copy/rows.csv"]["path"] == later.pins()[uri]["path"]
    assert len(list((tmp_path / "cache" / "objects").iterdir())) == 2


def test_an_archive_is_kept_as_what_it_holds(web: HttpsServer, tmp_path: Path) -> None:
    """Also the second time, when the server says that it has not changed."""
    import shutil

    a_folder(tmp_path / "photos", {"cat/1.png": "1", "dog/2.png": "2"})
    shutil.make_archive(str(tmp_path / "web" / "photos"), "zip", tmp_path / "photos")
    uri = f"{web.url}/photos.zip"
    for uid in ("aaaa", "bbbb"):
        job = Job(tmp_path, uid=uid, sections=train_on(uri))
        fetch_all(job.config)
        folder = Path(job.pins()[uri]["path"])
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png")) == ["cat/1.png", "dog/2.png"]
    assert web.answered == [200, 304]


def test_a_server_without_versions_is_asked_for_the_bytes_again(
    web: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else could tell whether they changed; what is the same is still kept once."""
    web.tags = False
    monkeypatch.setattr("http.server.SimpleHTTPRequestHandler.date_time_string", lambda *_: "")
    jobs = [Job(tmp_path, uid=uid, sections=train_on(f"{web.url}/rows.csv")) for uid in ("aaaa", "bbbb")]
    for job in jobs:
        fetch_all(job.config)
    assert web.answered == [200, 200]
    assert jobs[0].pins() == jobs[1].pins()


def test_two_jobs_at_once_download_once(hub: HubMirror, tmp_path: Path) -> None:
    """One downloads; the other says for whom it waits, and uses the same."""
    a_folder(tmp_path / "bert", {"model.safetensors": "w" * LARGE})
    hub.pace = 3.0
    first, second = Job(tmp_path, uid="aaaa"), Job(tmp_path, uid="bbbb")
    one = start(first)
    until(lambda: any("/large/" in request for request in hub.requested), "download")
    two = start(second)
    waiting = "spec.model.uri: hf://owner/bert: waiting for pod-of-aaaa, which downloads it"
    until(lambda: waiting in second.log.read_text(), "waiting")
    hub.pace = 0.0
    assert [end(one, first)[0], end(two, second)[0]] == [ExitCode.DONE, ExitCode.DONE]
    assert len([request for request in hub.requested if "GET /large/" in request]) == 1
    assert second.pins() == first.pins()


@contextmanager
def killed(job: Job, reached: Callable[[], Any]) -> Iterator[None]:
    """A download that got kill -9 when it had `reached` something."""
    process = start(job)
    until(reached, "beginning of the download")
    process.kill()
    process.wait()
    assert list(job.cache.glob("runs/*.json")) == []
    assert list(job.cache.glob("objects/*")) == []
    yield


def test_a_killed_download_from_the_hub_is_gone_on_with(hub: HubMirror, tmp_path: Path) -> None:
    """Files that were whole stay; the one that was not comes anew, and what was there of it goes."""
    a_folder(tmp_path / "bert", {"model.safetensors": "w" * LARGE})
    hub.pace, job = 3.0, Job(tmp_path)
    blobs = job.cache / "hub" / "models--owner--bert" / "blobs"
    with killed(job, lambda: any("GET /large/" in request for request in hub.requested)):
        assert len(list(blobs.glob("*.incomplete"))) == 1
        hub.pace = 0
        asked = new(hub.requested, lambda: fetch_all(job.config))
    files = [request.rpartition("/")[2] for request in asked if "/bert/resolve/" in request]
    assert set(files) == {"model.safetensors"}
    weights = Path(job.pins()["hf://owner/bert"]["path"], "model.safetensors")
    assert weights.read_text() == "w" * LARGE
    assert list(blobs.glob("*.incomplete")) == []


def test_a_killed_download_from_the_web_is_gone_on_with(web: HttpsServer, tmp_path: Path) -> None:
    """The server sends only the rest, and only if it still has that version; a changed file comes whole."""
    content = "".join(f"row {number},b\n" for number in range(LARGE // 12))
    (tmp_path / "web" / "rows.csv").write_text(content)
    uri = f"{web.url}/rows.csv"
    jobs = [Job(tmp_path / name, sections=train_on(uri)) for name in ("same", "changed")]
    for job, expected, status in zip(jobs, (content, content[::-1]), (206, 200), strict=True):
        parts, web.pace = job.cache / "unfinished", 3.0
        with killed(job, lambda: any(path.stat().st_size for path in parts.rglob("rows.csv"))):  # noqa: B023
            web.pace = 0.0
            (tmp_path / "web" / "rows.csv").write_text(expected)
            fetch_all(job.config)
        assert Path(job.pins()[uri]["path"]).read_text() == expected
        assert web.answered[-1] == status
        assert list(parts.iterdir()) == []


KILLED_AFTER_TWO_CHUNKS = """
import os, signal, sys
from finetune_trainer.data import stores
stores.CHUNK = 1 << 20
chunks = stores._chunks
def few(store, item, start):
    for number, chunk in enumerate(chunks(store, item, start)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield chunk
stores._chunks = few
from finetune_trainer.fetch import main
main([], os.environ)
"""


def test_a_killed_download_from_s3_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the bytes that are missing are asked for, and only of the same version."""
    content = "".join(f"row {number},b\n" for number in range(400_000))
    for name in ("s3/data", "metadata"):
        (tmp_path / name).mkdir(parents=True)
    job = Job(tmp_path, sections=train_on("s3://data/large.csv"))
    with S3Server(tmp_path / "s3", tmp_path / "server", tmp_path / "metadata") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        S3Store.from_url("s3://data", client_options={"allow_http": True}).put("large.csv", content.encode())
        environment = {**os.environ, "FINETUNE_RUN_CONFIG": str(job.file().write())}
        ended = subprocess.run([sys.executable, "-c", KILLED_AFTER_TWO_CHUNKS], env=environment, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert list(job.cache.glob("runs/*.json")) == []
        (part,) = (job.cache / "unfinished").rglob("*.unfinished")
        began, rest, chunks = part.stat().st_size, [], stores._chunks
        assert 0 < began < len(content)
        monkeypatch.setattr(stores, "_chunks", lambda *found: rest.append(found[2]) or chunks(*found))
        fetch_all(job.config)
    assert rest == [began]
    assert Path(job.pins()["s3://data/large.csv"]["path"]).read_text() == content


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; only root can make one."""
    folder = tmp_path / "cache"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("uri", ["hf://owner/large", "s3://data/large.parquet", "web"])
@pytest.mark.usefixtures("small_disk", "s3")
def test_a_full_volume(uri: str, hub: HubMirror, web: HttpsServer, tmp_path: Path) -> None:
    """Final, and said as what it is; nothing is left that looks whole."""
    large = "w" * (3 << 20)
    for folder in ("large", "s3/data", "web"):
        a_folder(tmp_path / folder, {"large.parquet": large})
    hub.publish("datasets", "owner/large", tmp_path / "large")
    uri = f"{web.url}/large.parquet" if uri == "web" else uri
    job = Job(tmp_path, sections=train_on(uri))
    with pytest.raises(StorageFull) as caught:
        fetch_all(job.config)
    assert caught.value.message.startswith(f"{TRAIN}: cannot store {uri} in {tmp_path / 'cache'}"), caught.value.message
    assert "No space left on device" in caught.value.message
    assert list(job.cache.glob("objects/*")) + list(job.cache.glob("runs/*.json")) == []


@pytest.mark.usefixtures("hub", "s3")
def test_a_cache_that_can_only_be_read_serves_what_is_pinned(small_disk: Path, tmp_path: Path) -> None:
    """As a volume that training pods mount read-only; for what is new, a message says what to change."""
    dataset = {"train": [{"uri": "hf://owner/rows"}, {"uri": "s3://data/rows.csv"}]}
    job = Job(tmp_path, sections={"dataset": dataset})
    fetch_all(job.config)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    fetch_all(job.config)
    with pytest.raises(ConfigError) as caught:
        fetch_all(Job(tmp_path, uid="ffff").config)
    assert (caught.value.reason, caught.value.hint) == (
        "NotWritable",
        "make it writable for the pod's group (podTemplate.spec.securityContext.fsGroup)",
    )
    assert caught.value.message.startswith(f"spec.model.uri: cannot store hf://owner/bert in {small_disk}: Read-only")


@pytest.mark.parametrize(
    ("sections", "environment", "code", "name", "message"),
    [
        pytest.param(
            {},
            {"HF_TOKEN": "hf_wrong"},
            ExitCode.AUTH_ERROR,
            FailureClass.AUTH_ERROR,
            "spec.model.uri: the hub does not give out owner/bert",
            id="token",
        ),
        pytest.param(
            {"model": {"uri": "hf://owner/brt"}},
            {},
            ExitCode.CONFIG_ERROR,
            FailureClass.CONFIG_ERROR,
            "spec.model.uri: the hub has no model owner/brt",
            id="name",
        ),
        pytest.param(
            {},
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            ExitCode.UNAVAILABLE,
            FailureClass.UNAVAILABLE,
            "spec.model.uri: the hub did not give owner/bert: ",
            id="network",
        ),
    ],
)
@pytest.mark.usefixtures("hub")
def test_how_the_program_ends(
    sections: dict[str, Any],
    environment: dict[str, str],
    code: int,
    name: FailureClass,
    message: str,
    tmp_path: Path,
) -> None:
    """With the trainer's exit codes, and the termination message that the operator reads."""
    job = Job(tmp_path, sections=sections)
    ended, outcome, log = end(start(job, **environment), job)
    assert outcome.failure is not None, log
    assert (ended, outcome.failure.class_, outcome.failure.pod) == (code, name, "pod-of-0a1b2c3d-0000"), log
    assert outcome.failure.message.startswith(message)


def test_asked_to_stop_it_ends_at_once(hub: HubMirror, tmp_path: Path) -> None:
    """SIGTERM: exit 75, so another try costs nothing of the program's budget."""
    a_folder(tmp_path / "bert", {"model.safetensors": "w" * LARGE})
    hub.pace, job = 1.0, Job(tmp_path)
    process = start(job)
    until(lambda: any("GET /large/" in request for request in hub.requested), "download")
    process.terminate()
    began = time.monotonic()
    code, outcome, log = end(process, job)
    assert time.monotonic() - began < LARGE / (1 << 16) * hub.pace / 2, log
    assert (code, outcome.failure and outcome.failure.class_) == (ExitCode.PREEMPTED, FailureClass.PREEMPTED), log


def test_the_log_tells_how_far_a_long_download_is(
    web: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "web" / "rows.csv").write_text("w" * LARGE)
    monkeypatch.setattr(progress, "SECONDS", 0.1)
    web.pace, uri = 0.03, f"{web.url}/rows.csv"
    caplog.set_level("INFO")
    fetch_all(Job(tmp_path, sections=train_on(uri)).config)
    lines = [record.getMessage() for record in caplog.records if record.name == progress.__name__]
    assert lines
    assert all(line.startswith(f"downloading {uri}: ") and " of 1.3 MB (" in line for line in lines), lines


def test_who_holds_a_lock_for_too_long_is_named(
    hub: HubMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path)
    fetch_all(job.config)
    (job.cache / "runs" / "0a1b2c3d-0000-1.json").unlink()
    for path in (job.cache / "locks").iterdir():
        path.write_text("pod-of-somebody")
    monkeypatch.setenv(lock.ENV_SECONDS, "0.5")
    held = [FileLock(path) for path in (job.cache / "locks").iterdir()]
    for one in held:
        one.acquire()
    with pytest.raises(Unavailable) as caught:
        fetch_all(job.config)
    assert caught.value.message == "spec.model.uri: hf://owner/bert: pod-of-somebody has been downloading it for 0 s"
    for one in held:
        one.release()
    assert new(hub.requested, lambda: fetch_all(job.config)) != []


def test_a_model_that_the_task_cannot_use_is_known_before_its_weights_come(hub: HubMirror, tmp_path: Path) -> None:
    """For our own trainer; another program may know what to do with it, and gets it."""
    hub.publish("models", "owner/unknown", a_folder(tmp_path / "unknown", {**MODEL, "config.json": "{}"}))
    sections = {"model": {"uri": "hf://owner/unknown"}}
    with pytest.raises(ConfigError, match=r"has no config\.json with a model_type"):
        fetch_all(Job(tmp_path, sections=sections).config)
    assert not any("model.safetensors" in request for request in hub.requested)
    other = Job(tmp_path, sections=sections, own_program=True)
    fetch_all(other.config)
    assert Path(other.pins()["hf://owner/unknown"]["path"], "model.safetensors").exists()


@pytest.mark.usefixtures("hub", "s3")
def test_what_a_crash_tore_is_fetched_again(tmp_path: Path) -> None:
    """A node that lost power may leave files that are shorter than they were written."""
    dataset = {"train": [{"uri": "s3://data/rows.csv"}]}
    job, next_job = Job(tmp_path, sections={"dataset": dataset}), Job(tmp_path, uid="ffff")
    next_job.sections = job.sections
    fetch_all(job.config)
    weights = Path(job.pins()["hf://owner/bert"]["path"], "model.safetensors")
    rows = Path(job.pins()["s3://data/rows.csv"]["path"])
    for path in (weights, rows):
        os.truncate(path, 3)
    fetch_all(next_job.config)
    assert weights.read_text() == MODEL["model.safetensors"]
    assert Path(next_job.pins()["s3://data/rows.csv"]["path"]).read_text() == "text,label\nc,d\n"


@pytest.mark.usefixtures("s3")
def test_a_cache_that_was_cleaned_under_a_run(hub: HubMirror, tmp_path: Path) -> None:
    """The hub still has the commit; of a store only what is still there can be had again."""
    import shutil

    dataset = {"train": [{"uri": "s3://data/rows.csv"}]}
    job = Job(tmp_path, sections={"dataset": dataset})
    fetch_all(job.config)
    pins = job.pins()
    hub.publish("models", "owner/bert", a_folder(tmp_path / "moved", {**MODEL, "model.safetensors": "moved"}))
    for name in ("hub", "objects", "known"):
        shutil.rmtree(job.cache / name)
    fetch_all(job.config)
    assert job.pins() == pins
    shutil.rmtree(job.cache / "objects")
    (tmp_path / "s3" / "data" / "rows.csv").write_text("text,label\nother,rows\n")
    with pytest.raises(ConfigError) as caught:
        fetch_all(job.config)
    assert caught.value.reason == "InputChanged"
    assert caught.value.message.startswith("spec.dataset.train[0].uri: s3://data/rows.csv was ")


def test_a_model_and_a_data_set_may_have_the_same_name(hub: HubMirror, tmp_path: Path) -> None:
    hub.publish("datasets", "owner/bert", tmp_path / "rows")
    job = Job(tmp_path, sections={"dataset": {"train": [{"uri": "hf://owner/bert"}]}})
    fetch_all(job.config)
    assert set(job.pins()) == {"hf://owner/bert", "hf://datasets/owner/bert"}


@pytest.mark.usefixtures("hub")
def test_a_run_on_this_machine_has_its_pins_in_its_own_folder(tmp_path: Path) -> None:
    """All runs of `finetune run` have the same uid; started over in a new folder, one looks again."""
    config = Job(tmp_path).config.model_copy(update={"base_folder": str(tmp_path)})
    fetch_all(config)
    pins = json.loads(Path(config.folder, "sources.json").read_text())
    assert set(pins) == {"hf://owner/bert", "hf://datasets/owner/rows"}
    assert not (tmp_path / "cache" / "runs").exists()


def test_two_pods_of_a_run_use_the_same(tmp_path: Path) -> None:
    """Whoever looks first decides for both, also when the source moves meanwhile."""
    downloads = Downloads.of(Job(tmp_path).config)
    assert downloads is not None
    looking, goes_on = threading.Event(), threading.Event()
    older, newer = (Pin(tmp_path, commit, f"git:{commit}", 1) for commit in ("older", "newer"))

    def look_slowly(_: Pin | None) -> Pin:
        looking.set()
        assert goes_on.wait(SECONDS)
        return older

    with ThreadPoolExecutor() as pods:
        first = pods.submit(downloads.get, "hf://owner/bert", "spec.model.uri", look_slowly)
        assert looking.wait(SECONDS)
        second = pods.submit(downloads.get, "hf://owner/bert", "spec.model.uri", lambda _: newer)
        goes_on.set()
        assert (first.result(), second.result()) == (older, older)


def test_a_run_without_a_cache_has_nothing_to_fetch_into(tmp_path: Path) -> None:
    config = Job(tmp_path).config.model_copy(update={"cache_folder": None})
    with pytest.raises(RunError, match=r"spec\.cache\.uri: without it"):
        fetch_all(config)


def test_the_rows_of_a_run_are_read_from_its_pins(hub: HubMirror, s3: S3Server, tmp_path: Path) -> None:
    """As the trainer reads them, whoever fetched them; it needs no server any more."""
    write_rows(tmp_path / "rows" / "train.csv", sentences(40))
    dataset = {"train": [{"uri": "hf://owner/rows"}, {"uri": "s3://data/rows.csv"}]}
    write_rows(tmp_path / "s3" / "data" / "rows.csv", sentences(40))
    config = Job(tmp_path, sections={"dataset": dataset}).config
    fetch_all(config)
    hub.stop()
    s3.stop()
    assert [source.rows for source in load_data(config).sources] == [40, 40]


@pytest.mark.torch
def test_a_run_trains_from_the_cache_without_a_server(
    tmp_path: Path, trainer: WarmTrainer, models: Callable[[str], Path]
) -> None:
    """What was fetched before is all that its supervisor and its rank need."""
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "train.csv", sentences(60))
    training = {"maxSteps": 2, "numTrainEpochs": None}
    job = Job(tmp_path, sections={"training": training, "checkpoint": {"everySteps": 1}})
    with HubMirror() as mirror:
        commit = mirror.publish("models", "owner/bert", models("bert"))
        mirror.publish("datasets", "owner/rows", tmp_path / "rows")
        place = {"HF_ENDPOINT": mirror.url, "HF_HOME": str(tmp_path / "home")}
        code, outcome, log = end(start(job, **place), job)
        assert (code, outcome.provenance and outcome.provenance.model_revision) == (ExitCode.DONE, commit), log
    ended = trainer.run(job.file(), HF_HOME=str(tmp_path / "other-home"))
    assert ended.code == ExitCode.DONE, ended.log
    assert job.file().read("run.json")["model"]["revision"] == commit
