"""The other half of the hub's protocol: repositories, branches, large files and commits that clients send."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.hub_repository import LARGE, Answer, Repository, entry_of

if TYPE_CHECKING:
    from support.hub_mirror import HubMirror

OWNER, TEAM = "owner", "team"
"""Whose token it is that may write, and the organization that he is in."""
COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")
PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)")
BRANCH = re.compile(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)")
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
STORED = re.compile(r"/large/([0-9a-f]{64})(/verify)?")


class Uploads:
    """What clients send to a mirror; files and commits lie below `folder`. `sent` has the bytes of large files."""

    def __init__(self, mirror: HubMirror, folder: Path) -> None:
        self.mirror = mirror
        self.folder = folder
        self.sent: list[int] = []

    def answer(self, path: str, body: bytes, writes: bool) -> Answer:
        """`writes` is whether the token may write."""
        if match := STORED.fullmatch(path):
            return self._verified(match.group(1), body) if match.group(2) else self._store(match.group(1), body)
        if path == "/api/validate-yaml":
            return Answer.json({"errors": [], "warnings": []})
        if not writes:
            return Answer.error(403, None, "You don't have the rights to write here")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        handlers: list[tuple[re.Pattern[str], Callable[..., Answer]]] = [
            (PREUPLOAD, self._preupload),
            (BATCH, self._batch),
            (COMMIT, self._commit),
            (BRANCH, self._branch),
        ]
        for pattern, handler in handlers:
            if match := pattern.fullmatch(path):
                repository = self.mirror.repositories.get(("models", match.group(1)))
                if repository is None:
                    return Answer.error(404, "RepoNotFound", "Repository not found")
                return handler(repository, body, *match.groups()[1:])
        return Answer.error(404, None, "Not found")

    def _create(self, wanted: dict[str, Any]) -> Answer:
        """A new repository has one commit with a file that says what is large, as the hub makes it."""
        name = f"{wanted['organization'] or OWNER}/{wanted['name']}"
        if name.partition("/")[0] not in (OWNER, TEAM):
            return Answer.error(403, None, "You don't have the rights to create a model under this namespace")
        url = f"{self.mirror.url}/{name}"
        if ("models", name) in self.mirror.repositories:
            return replace(Answer.json({"error": "You already created this model repo", "url": url}), status=409)
        repository = Repository(private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self.mirror.repositories["models", name] = repository
        folder = self._new_folder(b"first" + name.encode())
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        repository.commits[folder.name] = folder
        repository.branches["main"] = folder.name
        return Answer.json({"url": url})

    def _branch(self, repository: Repository, body: bytes, branch: str) -> Answer:
        if branch in repository.branches:
            return Answer.error(409, None, "Reference already exists")
        repository.branches[branch] = repository.branches[json.loads(body).get("startingPoint", "main")]
        return Answer.json({})

    def _preupload(self, repository: Repository, body: bytes, branch: str) -> Answer:
        commit = repository.commit(branch)
        if commit is None:
            return Answer.error(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        told = []
        for file in json.loads(body)["files"]:
            large = Path(file["path"]).suffix in LARGE
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            there = repository.commits[commit] / file["path"]
            if there.is_file():
                entry = entry_of(there, file["path"])
                answer["oid"] = entry["lfs"]["oid"] if large else entry["oid"]
            told.append(answer)
        return Answer.json({"files": told})

    def _batch(self, repository: Repository, body: bytes) -> Answer:  # noqa: ARG002
        objects = []
        for item in json.loads(body)["objects"]:
            href = f"{self.mirror.storage}/{item['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{self.mirror.url}/large/{item['oid']}/verify"}}
            objects.append(item | ({} if self._stored(item["oid"]).exists() else {"actions": actions}))
        return Answer.json({"transfer": "basic", "objects": objects})

    def _store(self, digest: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != digest:
            return Answer.error(400, None, "the content has another hash")
        self._stored(digest).parent.mkdir(exist_ok=True)
        self._stored(digest).write_bytes(body)
        self.sent.append(len(body))
        return Answer(200, {"ETag": f'"{digest}"'})

    def _verified(self, digest: str, body: bytes) -> Answer:
        whole = self._stored(digest).exists() and self._stored(digest).stat().st_size == json.loads(body)["size"]
        return Answer.json({}) if whole else Answer.error(404, None, "Object not found")

    def _commit(self, repository: Repository, body: bytes, branch: str) -> Answer:
        """A new folder: the branch's, with what the lines say added and taken away."""
        parent = repository.commit(branch)
        if parent is None:
            return Answer.error(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        folder = self._new_folder(parent.encode() + body)
        shutil.copytree(repository.commits[parent], folder, dirs_exist_ok=True)
        for line in body.splitlines():
            operation = json.loads(line)
            value, key = operation["value"], operation["key"]
            if key == "deletedFile":
                (folder / value["path"]).unlink()
            elif key in ("file", "lfsFile"):
                (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
                content = (
                    base64.b64decode(value["content"]) if key == "file" else self._stored(value["oid"]).read_bytes()
                )
                (folder / value["path"]).write_bytes(content)
        repository.commits[folder.name] = folder
        repository.branches[branch] = folder.name
        name = next(name for (_, name), known in self.mirror.repositories.items() if known is repository)
        return Answer.json({"commitOid": folder.name, "commitUrl": f"{self.mirror.url}/{name}/commit/{folder.name}"})

    def _new_folder(self, content: bytes) -> Path:
        folder = self.folder / "commits" / hashlib.sha1(content).hexdigest()
        folder.mkdir(parents=True)
        return folder

    def _stored(self, digest: str) -> Path:
        return self.folder / "large" / digest
