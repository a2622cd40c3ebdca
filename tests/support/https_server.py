"""A real HTTPS server over a folder, for downloads; some paths answer as the tests need it."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from support.tls import server_context

POLL_SECONDS = 0.02
PIECE = 1 << 16
TORN = "torn"
"""A path that promises more bytes than come."""


class HttpsServer:
    """Serves `folder` on a free port of 127.0.0.1.

    `redirects` says where paths lead; a path that is a number is answered with that status. `requested` has the paths
    of all requests, `answered` the status of each file's answer. With `tags` files have an ETag, and parts of them can
    be asked for; `pace` is how many seconds each PIECE of them takes then.
    """

    tags = False
    pace = 0.0

    def __init__(self, folder: Path, certificates: Path, redirects: Mapping[str, str] | None = None) -> None:
        self.requested: list[str] = []
        self.answered: list[int] = []
        self.redirects = redirects or {}
        self.ca_file = certificates / "ca.crt"
        context = server_context(self.ca_file, certificates / "tls.key")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(folder))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    def _handler(self, folder: Path) -> type[SimpleHTTPRequestHandler]:
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                name = self.path.strip("/")
                server.requested.append(name)
                if name in server.redirects:
                    self._answer(302, {"Location": server.redirects[name]})
                elif name == TORN:
                    self._answer(200, {"Content-Length": "100"})
                elif name.isdecimal():
                    self._answer(int(name), {"Content-Length": "0"})
                elif server.tags and (folder / name).is_file():
                    self._answer_tagged((folder / name).read_bytes())
                else:
                    super().do_GET()

            def send_response(self, code: int, message: str | None = None) -> None:
                server.answered.append(code)
                super().send_response(code, message)

            def _answer_tagged(self, body: bytes) -> None:
                tag = f'"{hashlib.sha256(body).hexdigest()}"'
                if self.headers["If-None-Match"] == tag:
                    self._answer(304, {"ETag": tag})
                    return
                first = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
                start = int(first.group(1)) if first and self.headers["If-Range"] == tag else 0
                self._answer(206 if start else 200, {"ETag": tag, "Content-Length": str(len(body) - start)})
                with suppress(OSError):
                    for place in range(start, len(body), PIECE):
                        self.wfile.write(body[place : place + PIECE])
                        time.sleep(server.pace)

            def _answer(self, status: int, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Tests look at `requested`."""

        return Handler

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
