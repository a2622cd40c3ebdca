"""A real OCI registry, built once from its Go module: open, behind a password, or behind a token that a password gets.

The token comes from a small server of ours, as the registry's specification has it; the registry checks its signature.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from support.cluster.build import FAMILIES, built
from support.cluster.layout import Layout, default_cache
from support.cluster.process import Daemon

SECONDS = 20.0
USER, PASSWORD = "tester", "mirror-only"
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuutAJbXwWc3kO2Vw9UjS85i.zV4PdGKdO\n"
REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/')
SERVICE, ISSUER, KEY = "registry", "tests", "1"


class Access(StrEnum):
    OPEN = "open"
    PASSWORD = "password"
    TOKEN = "token"


class RegistryServer:
    """Keeps its blobs below `folder` and serves on a free port of 127.0.0.1. After `stop` it can be entered again."""

    def __init__(self, folder: Path, access: Access = Access.OPEN) -> None:
        self.folder = folder
        self.host = f"127.0.0.1:{_free_port()}"
        self.tokens = TokenServer(folder) if access is Access.TOKEN else None
        self._access = access
        self._daemon = Daemon("registry", folder)

    @property
    def requests(self) -> list[str]:
        """Method and path of every request so far, from the server's own log."""
        return [" ".join(found) for found in REQUEST.findall(self._daemon.log.read_text())]

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "registry.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration()))
        family = next(family for family in FAMILIES if family.name == "registry")
        program = built(Layout(default_cache()), family) / "registry"
        self._daemon.start(["env", "OTEL_TRACES_EXPORTER=none", program, "serve", configuration])
        self._daemon.await_ready(self._answers, SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.tokens is not None:
            self.tokens.stop()

    def stop(self) -> None:
        self._daemon.stop()

    def _configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "blobs")}},
            "http": {"addr": self.host},
        }
        if self._access is Access.PASSWORD:
            (self.folder / "htpasswd").write_text(HTPASSWD)
            found["auth"] = {"htpasswd": {"realm": "tests", "path": str(self.folder / "htpasswd")}}
        elif self.tokens is not None:
            token = {"realm": self.tokens.url, "service": SERVICE, "issuer": ISSUER, "jwks": str(self.tokens.keys)}
            found["auth"] = {"token": token}
        return found

    def _answers(self) -> bool:
        name, _, port = self.host.partition(":")
        with socket.socket() as probe:
            return probe.connect_ex((name, int(port))) == 0


class TokenServer:
    """Gives whoever knows the password a token for what he asks for; `given` has the scopes of all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.given: list[str] = []
        self.keys = folder / "jwks.json"
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        self.keys.write_text(json.dumps({"keys": [{**public, "kid": KEY, "alg": "RS256", "use": "sig"}]}))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, scopes: list[str], seconds: float = 300) -> str:
        """A token that is good for so long."""
        self.given.extend(scopes)
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = time.time()
        claims = {"iss": ISSUER, "sub": USER, "aud": SERVICE, "access": access, "jti": str(len(self.given))}
        times = {"iat": int(now), "nbf": int(now), "exp": int(now + seconds)}
        return jwt.encode({**claims, **times}, self._key, algorithm="RS256", headers={"kid": KEY})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.headers["Authorization"] == expected
                scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
                body = json.dumps({"token": server.token(scopes)} if known else {}).encode()
                self.send_response(200 if known else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Tests look at `given`."""

        return Handler


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
