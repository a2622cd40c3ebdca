"""A server that speaks the hub's protocol as `huggingface_hub` asks it, over folders on the disk; it takes commits.

Files that the hub keeps in its large-file storage are answered as it does: by a redirect to another host.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pytest

from support.hub_repository import LARGE, Answer, Repository, entry_of, git_hash_of, sha256_of
from support.hub_uploads import OWNER, TEAM, Uploads

POLL_SECONDS = 0.02
PIECE = 1 << 16
TOKEN = "hf_mirror"
READER = "hf_reader"
"""A token that only reads."""
INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?")
TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
WRITE_CHECK = re.compile(r"/api/models/([^/]+/[^/]+)/auth-check/write")
LARGE_FILE = re.compile(r"/large/([0-9a-f]{64})")


class HubMirror:
    """Serves on a free port of 127.0.0.1; `requested` has method and path of every request.

    It hangs up without an answer where `hangs_up` says so of a path. `pace` is how many seconds each PIECE of a large
    file takes.
    """

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.hangs_up: Callable[[str], bool] = lambda _: False
        self.pace = 0.0
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}/large"
        self._folder = tempfile.TemporaryDirectory(prefix="hub-")
        self.uploads = Uploads(self, Path(self._folder.name))

    def publish(self, kind: str, name: str, folder: Path, branch: str = "main", **access: bool) -> str:
        """Make a folder the newest commit of a branch; `kind` is models or datasets. Returns the commit."""
        repository = self.repositories.setdefault((kind, name), Repository(**access))
        commit = hashlib.sha1(f"{kind}/{name}/{branch}/{folder}".encode()).hexdigest()
        repository.commits[commit] = folder
        repository.branches[branch] = commit
        return commit

    def answer(self, path: str, token: str | None) -> Answer:
        if match := LARGE_FILE.fullmatch(path):
            return self._large_file(match.group(1))
        if path == "/api/whoami-v2":
            return _who_is(token)
        if match := WRITE_CHECK.fullmatch(path):
            refusal = _refusal(self.repositories.get(("models", match.group(1))), token)
            return refusal or (Answer.json({}) if token == TOKEN else Answer.error(403, None, "Forbidden"))
        if match := INFO.fullmatch(path) or TREE.fullmatch(path):
            kind, name, revision, file = *match.groups(), None
        elif match := FILE.fullmatch(path):
            kind, name, revision, file = "datasets" if match.group(1) else "models", *match.groups()[1:]
        else:
            return Answer.error(404, None, "Not found")
        repository = self.repositories.get((kind, name))
        if refusal := _refusal(repository, token):
            return refusal
        assert repository is not None
        commit = repository.commit(unquote(revision or "main"))
        if commit is None:
            return Answer.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        folder = repository.commits[commit]
        if file is not None:
            return _file(folder, unquote(file), commit, self.storage)
        return Answer.json(_tree(folder) if TREE.fullmatch(path) else {"id": name, "sha": commit, "siblings": []})

    def _large_file(self, digest: str) -> Answer:
        folders = [folder for repository in self.repositories.values() for folder in repository.commits.values()]
        for path in (path for folder in folders for path in folder.rglob("*") if path.suffix in LARGE):
            if sha256_of(path) == digest:
                return Answer(200, {"ETag": f'"{digest}"'}, path.read_bytes())
        return Answer.error(404, None, "Not found")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                mirror.requested.append(f"{self.command} {path}")
                if mirror.hangs_up(path):
                    return
                authorization = self.headers["Authorization"]
                token = authorization and authorization.removeprefix("Bearer ")
                if self.command in ("GET", "HEAD"):
                    self._send(mirror.answer(path, token))
                elif token not in (None, TOKEN, READER):
                    self._send(Answer.error(401, None, "Invalid credentials in Authorization header"))
                else:
                    self._send(mirror.uploads.answer(path, self._body(), token == TOKEN))

            def _body(self) -> bytes:
                if self.headers["Transfer-Encoding"] != "chunked":
                    return self.rfile.read(int(self.headers["Content-Length"] or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(ConnectionError):
                    for start in range(0, len(answer.body) if self.command != "HEAD" else 0, PIECE):
                        self.wfile.write(answer.body[start : start + PIECE])
                        time.sleep(mirror.pace if self.path.startswith("/large/") else 0.0)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Tests look at `requested`."""

        return Handler

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()


def _refusal(repository: Repository | None, token: str | None) -> Answer | None:
    """As the hub does, which does not tell a stranger what is private from what is not there."""
    if token not in (None, TOKEN, READER):
        return Answer.error(401, None, "Invalid credentials in Authorization header")
    if repository is not None and repository.gated:
        return Answer.error(403, "GatedRepo", "Access to this repository is restricted")
    if repository is None and token is not None:
        return Answer.error(404, "RepoNotFound", "Repository not found")
    if repository is None or (repository.private and token is None):
        return Answer.error(401, "RepoNotFound", "Invalid username or password.")
    return None


def _who_is(token: str | None) -> Answer:
    if token not in (TOKEN, READER):
        return Answer.error(401, None, "Invalid credentials in Authorization header")
    role = "write" if token == TOKEN else "read"
    return Answer.json({"name": OWNER, "orgs": [{"name": TEAM}], "auth": {"accessToken": {"role": role}}})


def _tree(folder: Path) -> list[dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [entry_of(path, str(path.relative_to(folder))) for path in files]


def _file(folder: Path, name: str, commit: str, storage: str) -> Answer:
    path, headers = folder / name, {"X-Repo-Commit": commit}
    if not path.is_file():
        return Answer(404, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
    if path.suffix in LARGE:
        digest = sha256_of(path)
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(path.stat().st_size)}
        return Answer(302, headers | linked | {"Location": f"{storage}/{digest}"})
    return Answer(200, headers | {"ETag": f'"{git_hash_of(path)}"'}, path.read_bytes())


def take_the_hubs_place(mirror: HubMirror, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client asks the mirror, with an empty cache in `folder` and nobody logged in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", mirror.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", mirror.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
