"""What the halves of the hub's mirror share: repositories, answers, and what is told of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

LARGE = {".parquet", ".safetensors"}


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


def entry_of(path: Path, name: str) -> dict[str, Any]:
    """What a listing tells of a file."""
    size = path.stat().st_size
    entry = {"type": "file", "path": name, "size": size, "oid": git_hash_of(path)}
    if path.suffix in LARGE:
        entry["lfs"] = {"oid": sha256_of(path), "size": size, "pointerSize": 130}
    return entry


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_hash_of(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
