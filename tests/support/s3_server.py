"""A real S3 server, versitygw, built once from its Go module: a folder's subfolders are its buckets."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Self

from support.cluster.build import S3, built
from support.cluster.layout import Layout, default_cache
from support.cluster.process import Daemon

SECONDS = 20.0


class S3Server:
    """Serves `folder` on a free port of `address`; `environment` is what a client needs.

    With a folder for `metadata` it also takes uploads in parts. After `stop` it can be entered again.
    """

    def __init__(self, folder: Path, state: Path, metadata: Path | None = None, address: str = "127.0.0.1") -> None:
        self._folder = folder
        self._address = address
        self._metadata = ["--sidecar", metadata] if metadata else ["--nometa"]
        self._daemon = Daemon("s3", state)
        self._port = _free_port(address)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{address}:{self._port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        }

    @property
    def requests(self) -> list[str]:
        """Method and path of every request so far, from the server's own log."""
        lines = [line.split(" | ") for line in self._daemon.log.read_text().splitlines()]
        return [f"{fields[5]} {fields[6]}" for fields in lines if len(fields) > 6]

    def __enter__(self) -> Self:
        access, secret = self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"]
        program = built(Layout(default_cache()), S3) / "versitygw"
        options = ["--port", f"{self._address}:{self._port}", "--access", access, "--secret", secret]
        self._daemon.start([program, *options, "posix", *self._metadata, self._folder])
        self._daemon.await_ready(self._answers, SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._daemon.stop()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self._address, self._port)) == 0


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
