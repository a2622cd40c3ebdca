"""A real Chromium, without a network, that tells whatever a page does wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = (390, 844), (1280, 900)


def chromium() -> str:
    """The browser's program, installed if need be: as root on Debian, as in CI."""
    found = _program()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
            subprocess.run(command, env=quiet, check=True, stdout=subprocess.DEVNULL)
        found = _program()
    assert found is not None, "the tests of report.html need Chromium; Debian: apt-get install chromium"
    return found


def _program() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def a_browser() -> Iterator[Browser]:
    """As root it has no sandbox of its own; the pages are ours."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in the browser, and what it asked for or complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, script: str, argument: Any = None) -> Any:
        """The value of a function of JavaScript."""
        return self.page.evaluate(script, argument)


@contextmanager
def opened(browser: Browser, path: Path, size: tuple[int, int] = DESK, dark: bool = False) -> Iterator[Opened]:
    """The page in `path`, its charts drawn; every request but that for the file itself is refused and noted."""
    look: Mapping[str, Any] = {"color_scheme": "dark" if dark else "light"}
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True, **look)
    shown = Opened(context.new_page())
    shown.page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort())
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    shown.page.on("console", lambda said: shown.complaints.append(said.text))
    shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    shown.page.goto(path.as_uri())
    shown.page.wait_for_selector("html[data-drawn]", state="attached")
    yield shown
    context.close()
