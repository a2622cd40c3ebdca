"""A server that speaks the hub's protocol as `huggingface_hub` asks it, over folders on the disk.

Files that the hub keeps in its large-file storage are answered as it does: by a redirect to another host.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

POLL_SECONDS = 0.02
LARGE = {".parquet", ".safetensors"}
TOKEN = "hf_mirror"
INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?")
TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
LARGE_FILE = re.compile(r"/large/([0-9a-f]{64})")


@dataclass
class Repository:
    """Commits by their hash, and branches by name. A private one answers only to TOKEN, a gated one to nobody."""

    commits: dict[str, Path] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def error(cls, status: int, code: str | None, message: str) -> Self:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        return cls(status, headers)

    @classmethod
    def json(cls, value: Any) -> Self:
        return cls(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


class HubMirror:
    """Serves on a free port of 127.0.0.1; `requested` has method and path of every request."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._storage = f"http://localhost:{self._server.server_port}/large"

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
            return _file(folder, unquote(file), commit, self._storage)
        return Answer.json(_tree(folder) if TREE.fullmatch(path) else {"id": name, "sha": commit, "siblings": []})

    def _large_file(self, digest: str) -> Answer:
        folders = [folder for repository in self.repositories.values() for folder in repository.commits.values()]
        for path in (path for folder in folders for path in folder.rglob("*") if path.suffix in LARGE):
            if _sha256(path) == digest:
                return Answer(200, {"ETag": f'"{digest}"'}, path.read_bytes())
        return Answer.error(404, None, "Not found")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                mirror.requested.append(f"{self.command} {path}")
                authorization = self.headers["Authorization"]
                answer = mirror.answer(path, authorization and authorization.removeprefix("Bearer "))
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)

            do_HEAD = do_GET

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


def _refusal(repository: Repository | None, token: str | None) -> Answer | None:
    """As the hub does, which does not tell a stranger what is private from what is not there."""
    if token not in (None, TOKEN):
        return Answer.error(401, None, "Invalid credentials in Authorization header")
    if repository is not None and repository.gated:
        return Answer.error(403, "GatedRepo", "Access to this repository is restricted")
    if repository is None and token is not None:
        return Answer.error(404, "RepoNotFound", "Repository not found")
    if repository is None or (repository.private and token is None):
        return Answer.error(401, "RepoNotFound", "Invalid username or password.")
    return None


def _tree(folder: Path) -> list[dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [_entry(path, str(path.relative_to(folder))) for path in files]


def _entry(path: Path, name: str) -> dict[str, Any]:
    size = path.stat().st_size
    entry = {"type": "file", "path": name, "size": size, "oid": _git_hash(path)}
    if path.suffix in LARGE:
        entry["lfs"] = {"oid": _sha256(path), "size": size, "pointerSize": 130}
    return entry


def _file(folder: Path, name: str, commit: str, storage: str) -> Answer:
    path, headers = folder / name, {"X-Repo-Commit": commit}
    if not path.is_file():
        return Answer(404, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
    if path.suffix in LARGE:
        digest = _sha256(path)
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(path.stat().st_size)}
        return Answer(302, headers | linked | {"Location": f"{storage}/{digest}"})
    return Answer(200, headers | {"ETag": f'"{_git_hash(path)}"'}, path.read_bytes())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
