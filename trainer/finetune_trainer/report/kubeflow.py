"""Progress reports in Kubeflow Trainer's protocol, from a thread of their own: the loop never waits for the network."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import urllib.request
from typing import Any

from finetune_api.progress import report
from finetune_trainer.report.snapshot import Snapshot
from finetune_trainer.settings import ProgressServer

log = logging.getLogger(__name__)
INTERVAL = 5.0
"""Seconds between two reports."""
TIMEOUT = 5.0
LAST_WORD = 6.0
"""Seconds that the end of the run waits for the last report."""


class ProgressReports:
    """Sends the latest snapshot, at most once an interval. Failures are logged once and never fatal."""

    def __init__(self, server: ProgressServer, interval: float = INTERVAL) -> None:
        self.server = server
        self.interval = interval
        self._latest: Snapshot | None = None
        self._news = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def update(self, snapshot: Snapshot) -> None:
        self._latest = snapshot
        self._news.set()

    def close(self) -> None:
        self._closing.set()
        self._news.set()
        self._thread.join(LAST_WORD)

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            self._send()
            if self._closing.is_set() and not self._news.is_set():
                return
            self._closing.wait(self.interval)

    def _send(self) -> None:
        if self._latest is None:
            return
        try:
            post(self.server, body_of(self._latest))
            self._failing = False
        except (OSError, ValueError) as error:
            if not self._failing:
                log.warning("progress report to %s failed: %s", self.server.url, error)
            self._failing = True


def body_of(snapshot: Snapshot) -> dict[str, Any]:
    """The report's JSON document."""
    numbers = {
        "learning_rate": snapshot.learning_rate,
        "grad_norm": snapshot.grad_norm,
        "checkpoint_step": snapshot.checkpoint_step,
        "resumed_from_step": snapshot.resumed_from_step,
    } | {**snapshot.metrics, **snapshot.constants}
    known = {name: value for name, value in numbers.items() if value is not None}
    return report(snapshot.progress(), known)


def post(server: ProgressServer, body: dict[str, Any]) -> None:
    """One report; token and CA are read anew, because both are rotated. Raises OSError or ValueError."""
    token = server.token_file.read_text(encoding="utf-8").strip()
    context = ssl.create_default_context(cafile=str(server.ca_file)) if server.ca_file else None
    request = urllib.request.Request(
        server.url,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as response:
        response.read()
