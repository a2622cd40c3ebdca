"""report.html in a real Chromium: it asks for nothing and complains of nothing, its charts are drawn, its pictures seen
and its sounds played, on a screen, on a phone, in the dark and on paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from finetune_api.progress import ExitCode
from finetune_trainer.pages.comparison import comparison_page
from finetune_trainer.pages.folder import read_run
from finetune_trainer.pages.page import write_page
from support import cases_media
from support.browser import DESK, PHONE, Opened, a_browser, opened
from support.pages import HOSTILE, a_record, a_run_folder, an_evaluation
from support.runs import WarmTrainer

pytestmark = pytest.mark.torch
Pages = dict[str, Path]

OVERLAPS = """() => {
  const found = [];
  for (const section of document.querySelectorAll("header.top, nav, section")) {
    const texts = [];
    const walker = document.createTreeWalker(section, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      const parent = node.parentElement, turned = /rotate/.test(parent.getAttribute("transform"));
      if (!node.textContent.trim() || turned || parent.closest(".hidden, .vg-tooltip")) continue;
      const clip = parent.closest(".scroll, nav")?.getBoundingClientRect();
      const range = document.createRange();
      range.selectNodeContents(node);
      for (const all of range.getClientRects()) {
        const left = Math.max(all.left, clip?.left ?? -Infinity), right = Math.min(all.right, clip?.right ?? Infinity);
        const top = Math.max(all.top, clip?.top ?? -Infinity), bottom = Math.min(all.bottom, clip?.bottom ?? Infinity);
        if (right - left > 1 && bottom - top > 1) texts.push([{ left, right, top, bottom }, node.textContent.trim()]);
      }
    }
    for (let one = 0; one < texts.length; one++) for (let other = one + 1; other < texts.length; other++) {
      const [a, b] = [texts[one][0], texts[other][0]];
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 3 && height > 5) found.push([section.id, texts[one][1], texts[other][1]]);
    }
  }
  return found;
}"""
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => x / 255).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const grounds = (element) => {
    const found = [];
    for (let one = element; one; one = one.parentElement) found.unshift(getComputedStyle(one).backgroundColor);
    return found;
  };
  const worst = {};
  const shown = "p, h1, h2, h3, td, th, dt, dd, mark, .chip, .token, .badge, pre, a, text";
  for (const element of document.querySelectorAll(shown)) {
    if (!element.textContent.trim() || element.closest(".hidden") || element.getAttribute("opacity")) continue;
    const style = getComputedStyle(element), under = grounds(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(paint(under)), light(paint([...under, color]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${element.tagName} ${element.getAttribute("class") || ""}`;
    worst[name] = Math.min(worst[name] ?? 99, ratio);
  }
  return worst;
}"""
PLAYED = """async (audio) => {
  audio.muted = true;
  await audio.play();
  while (!audio.currentTime) await new Promise((done) => setTimeout(done, 20));
  return [audio.readyState, audio.duration, audio.error];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """A run with every part; one whose every text is hostile; one with pictures and sounds; a comparison."""
    root = tmp_path_factory.mktemp("pages")
    runs = {
        "full": a_run_folder(root / "full"),
        "hostile": a_run_folder(root / "hostile", **hostile()),
        "media": a_run_folder(root / "media", "multimodal-classification"),
    }
    found = {name: write_page(folder) for name, folder in runs.items()}
    found["comparison"] = root / "comparison.html"
    found["comparison"].write_text(comparison_page([read_run(folder) for folder in runs.values()]))
    return found


At = Callable[..., Opened]


@pytest.fixture(scope="module")
def at(browser: Browser, pages: Pages) -> Iterator[At]:
    """A page as a size and a scheme show it, opened once for all tests that only look."""
    known: dict[tuple[Any, ...], Opened] = {}
    with ExitStack() as stack:

        def open_once(name: str, size: tuple[int, int] = DESK, dark: bool = False) -> Opened:
            key = (name, size, dark)
            if key not in known:
                known[key] = stack.enter_context(opened(browser, pages[name], size, dark))
            return known[key]

        yield open_once


def hostile() -> dict[str, Any]:
    labels = [HOSTILE, "</script><script>throw 1</script>"]
    slices = [{"by": HOSTILE, "slice": name, "metric": "accuracy", "value": 0.5, "rows": 4} for name in labels]
    analysis = {"confusion": {"labels": labels, "counts": [[3, 1], [1, 3]]}, "slices": slices}
    errors = [{"text": HOSTILE, "label": labels[0], "prediction": labels[1], "source": HOSTILE, "row": 1}]
    return {"run": a_record(name=HOSTILE), "evaluation": an_evaluation(analysis=analysis), "errors": errors}


NAMES = ("full", "hostile", "media", "comparison")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_for_nothing_and_complains_of_nothing(name: str, at: At, pages: Pages) -> None:
    shown = at(name)
    assert [url for url in shown.requests if not url.startswith("data:")] == [pages[name].as_uri()]
    assert shown.complaints == []
    assert shown.ask("() => document.querySelectorAll('[onerror]').length") == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_chart_is_drawn(name: str, at: At) -> None:
    """Each has marks, and is as wide as its box, not more."""
    shown = at(name)
    charts = shown.ask("""() => [...document.querySelectorAll(".plot")].map((plot) => {
        const svg = plot.querySelector("svg"), marks = svg.querySelectorAll(".mark-group path, .mark-group text");
        return [plot.id, marks.length, svg.getBoundingClientRect().width / plot.getBoundingClientRect().width];
    })""")
    assert len(charts) == int(shown.ask("() => document.documentElement.dataset.drawn")) > 0
    for chart, marks, width in charts:
        assert marks > 5, chart
        assert 0.9 < width <= 1.001, chart


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [pytest.param(DESK, id="desk"), pytest.param(PHONE, id="phone")])
def test_nothing_leaves_the_screen_or_lies_on_top_of_another_text(name: str, size: tuple[int, int], at: At) -> None:
    """Tables scroll inside of their boxes."""
    shown = at(name, size)
    shown.ask("() => document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert shown.ask("() => document.documentElement.scrollWidth") <= size[0]
    assert shown.ask(OVERLAPS) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_its_ground(dark: bool, at: At) -> None:
    """By WCAG's measure, at least 4.5 to 1, in charts too; what is dark is dark."""
    shown = at("full", dark=dark)
    ground = shown.ask("() => getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", ground)]
    assert max(levels) < 40 if dark else min(levels) > 230
    assert {name: ratio for name, ratio in shown.ask(CONTRASTS).items() if ratio < 4.5} == {}


@pytest.mark.parametrize(("name", "dark"), [("full", False), ("full", True), ("media", False)])
def test_every_part_is_a_picture_of_something(name: str, dark: bool, at: At) -> None:
    """In a screenshot each section, chart and figure has more colours than a ground and a text."""
    from PIL import Image

    shown = at(name, dark=dark)
    boxes = shown.ask("""() => [...document.querySelectorAll("section, .chart, .figure")].map((part) => {
        const box = part.getBoundingClientRect(), top = box.top + scrollY;
        return [part.id || part.textContent.trim().slice(0, 30), [box.left, top, box.right, top + box.height]];
    })""")
    picture = Image.open(io.BytesIO(shown.page.screenshot(full_page=True))).convert("RGB")
    for part, box in boxes:
        cut = picture.crop([round(side) for side in box])
        assert min(cut.size) > 40, part
        assert len(cut.getcolors(1 << 24) or []) >= 12, part


def test_a_chart_tells_its_numbers_and_follows_the_width(browser: Browser, pages: Pages) -> None:
    with opened(browser, pages["hostile"]) as shown:
        shown.page.hover("#confusion .mark-text.layer_1_marks text >> nth=0")
        shown.page.wait_for_selector("#vg-tooltip-element.visible")
        assert HOSTILE in shown.page.inner_text("#vg-tooltip-element")
        wide = width_of(shown)
        shown.page.set_viewport_size({"width": 420, "height": 800})
        shown.page.wait_for_function("() => document.querySelector('#loss svg').getBoundingClientRect().width < 400")
        assert width_of(shown) < wide
        assert shown.complaints == []


def width_of(shown: Opened) -> float:
    width: float = shown.ask("() => document.querySelector('#loss svg').getBoundingClientRect().width")
    return width


def test_a_table_is_sorted_by_the_column_that_is_chosen(browser: Browser, pages: Pages) -> None:
    first = "() => document.querySelector('table.sortable tbody tr').cells[0].textContent"
    with opened(browser, pages["full"]) as shown:
        shown.page.click("table.sortable th >> nth=0")
        assert shown.ask(first) == "delivery"
        shown.page.click("table.sortable th >> nth=0")
        assert shown.ask(first) == "praise"


def test_it_prints(browser: Browser, pages: Pages) -> None:
    """Folded parts too, in dark colours on white whatever the screen has."""
    with opened(browser, pages["full"], dark=True) as shown:
        paper = shown.page.pdf(format="A4")
        assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 3
        shown.page.emulate_media(media="print", color_scheme="dark")
        assert shown.ask("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        shown.ask("() => dispatchEvent(new Event('beforeprint'))")
        assert shown.ask("() => document.querySelectorAll('details:not([open])').length") == 0


def test_the_page_of_a_real_run_has_its_pictures_and_sounds(
    browser: Browser, trainer: WarmTrainer, tmp_path: Path
) -> None:
    case = next(case for case in cases_media.CASES if case.task == "multimodal-classification")
    run = case.run(tmp_path, maxSteps=1)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    wrong = run.lines("errors.jsonl")[:24]
    with opened(browser, run.folder / "report.html") as shown:
        shown.ask("() => document.querySelectorAll('details').forEach((one) => one.open = true)")
        heard, seen = shown.page.query_selector_all("audio"), shown.page.query_selector_all("img")
        assert (len(heard), len(seen)) == tuple(sum(role in row for row in wrong) for role in ("audio", "image"))
        assert len(heard) + len(seen) > 0
        assert all(picture.evaluate("(image) => image.complete && image.naturalWidth > 0") for picture in seen)
        for sound in heard[:2]:
            ready, duration, error = sound.evaluate(PLAYED)
            assert (ready >= 2, duration > 0.1, error) == (True, True, None)
        assert shown.complaints == []
