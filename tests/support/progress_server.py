"""A real HTTPS server that keeps the progress reports it gets."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from finetune_api.names import PROGRESS_PATH
from finetune_api.progress import ProgressReport
from support.tls import server_context


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    authorization: str | None
    content_type: str | None
    body: dict[str, Any]

    @property
    def numbers(self) -> dict[str, float]:
        return ProgressReport.model_validate(self.body).trainer_status.numbers()


class ProgressServerForTests:
    """Serves on a free port of 127.0.0.1 with a certificate that is its own CA; `received` has the requests."""

    path = PROGRESS_PATH.format(namespace="default", name="test")

    def __init__(self, folder: Path) -> None:
        self.received: list[Received] = []
        self.ca_file, self.token_file = folder / "ca.crt", folder / "token"
        self.token_file.write_text("token")
        key_file = folder / "tls.key"
        context = server_context(self.ca_file, key_file)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}{self.path}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = self.headers
                received.append(
                    Received(self.command, self.path, headers["Authorization"], headers["Content-Type"], body)
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Tests look at `received`."""

        return Handler

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
