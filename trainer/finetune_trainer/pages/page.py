"""report.html: one self-contained file, never larger than LIMIT whatever the run left."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from finetune_trainer import files
from finetune_trainer.data.rows import Row
from finetune_trainer.pages import sections
from finetune_trainer.pages.configuration import as_yaml
from finetune_trainer.pages.figures import (
    clock,
    counted,
    figures_of,
    gates_of,
    headlines_of,
    instant,
    seconds_of,
    sentence_of,
    short_uri,
    shown,
    spreads_of,
    state_of,
    title,
)  # fmt: skip
from finetune_trainer.pages.folder import RunFolder, part, read_run
from finetune_trainer.pages.media import SHOWN, keep_media, shown_media
from finetune_trainer.pages.rows import brief, wrong_row
from finetune_trainer.pages.sections import Chart, Section

log = logging.getLogger(__name__)
LIMIT = 2_900_000
"""Bytes of a page; 3 MB is what people were promised."""
MARGIN = 20_000
SHARE_OF_MEDIA = 1_600_000


@dataclass(frozen=True)
class Extent:
    """How much of the wrong rows a page shows: as cards, and as lines of a table."""

    cards: int
    lines: int


EXTENTS = (Extent(SHOWN, 300), Extent(SHOWN, 0), Extent(8, 0), Extent(0, 0))


def write_page(folder: Path) -> Path:
    """Make report.html in a run's folder. Raises ConfigError if it holds no run."""
    path = folder / files.PAGE
    files.write_atomic(path, run_page(read_run(folder)), durable=False)
    return path


def leave_page(folder: Path, errors: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> None:
    """The page of a run that ends here, with the media of its wrong rows; what goes wrong is only logged.

    A run does not fail for want of its report.
    """
    try:
        keep_media(folder, errors, rows)
        write_page(folder)
    except Exception as error:
        log.warning("the run has no %s: %s: %s", files.PAGE, type(error).__name__, error)


def run_page(run: RunFolder) -> str:
    """The page; wrong rows and their media give way until it is small enough."""
    parts = _parts(run)
    for extent in EXTENTS:
        bare = len(_rendered(run, parts, extent, 0).encode())
        if bare < LIMIT - MARGIN:
            return _rendered(run, parts, extent, min(SHARE_OF_MEDIA, LIMIT - MARGIN - bare))
    return _rendered(run, [section for section in parts if section.id != "data"], EXTENTS[-1], 0)


def _parts(run: RunFolder) -> list[Section]:
    """The sections that have anything to show."""
    found = [sections.training(run), sections.evaluation(run), sections.forgetting(run), sections.data(run)]
    return [section for section in [*found, sections.doubtful(run), sections.environment(run)] if section]


def _rendered(run: RunFolder, parts: Sequence[Section], extent: Extent, media: int) -> str:
    figures, seconds = figures_of(run), seconds_of(run)
    kept = shown_media(run.path, media) if media else {}
    wrong = [
        (wrong_row(error, run.task), kept.get(place, [])) for place, error in enumerate(run.errors[: extent.cards])
    ]
    further = [brief(error) for error in run.errors[extent.cards :][: extent.lines]]
    return render(
        "report.html",
        [chart for section in parts for chart in section.charts],
        run=run,
        state=state_of(run),
        facts=_facts(run, seconds),
        figures=figures,
        headlines=headlines_of(figures),
        sentence=sentence_of(run, figures),
        gates=gates_of(run),
        sections={section.id: section for section in parts},
        wrong=wrong,
        further=further,
        further_columns=list(dict.fromkeys(name for row in further for name in row)),
        silent=sum(not media_ for row, media_ in wrong if row.media),
        spreads=spreads_of(run.crossed),
        cost=sections.cost(run, seconds),
        configuration=as_yaml(run.config),
    )


def _facts(run: RunFolder, seconds: float | None) -> list[str]:
    """The line below the name: what was trained how, on what, and when."""
    model, rows = part(run.record, "model"), part(run.data, "rows").get("train")
    ended = instant(run.metrics[-1].get("time")) if run.metrics else None
    revision = f" at {str(model['revision'])[:10]}" if model.get("revision") else ""
    found = [
        f"from {short_uri(str(model['uri']))}{revision}" if model.get("uri") else "",
        f"method {part(run.config, 'method').get('type', 'full')}",
        counted(rows, "training row") if rows else "",
        f"trained for {clock(seconds)}" if seconds is not None else "",
        f"{ended:%d %B %Y}" if ended else "",
    ]
    return [fact for fact in found if fact]


# --- rendering --------------------------------------------------------------------------------------------------------


def render(template: str, drawn: Sequence[Chart], **values: Any) -> str:
    """A page of its template; scripts are allowed by their hashes, so no text of a run can become one."""
    specs = {chart.id: {**chart.spec, "description": chart.title} for chart in drawn if chart.spec}
    scripts = [vega(), _text("script.js")] if specs else [_text("script.js")]
    return str(
        _environment()
        .get_template(template)
        .render(
            **values,
            specs=specs,
            scripts=scripts,
            policy=_policy(scripts),
            style=_text("style.css"),
            shown=shown,
            title=title,
        )
    )


def _policy(scripts: Sequence[str]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{hash_}'" for hash_ in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def vega() -> str:
    """vega, vega-lite and vega-embed as one script, of the versions that Altair writes for."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script")


@cache
def _environment() -> Any:
    """Everything is escaped, also in templates whose names do not end in .html."""
    import jinja2

    loader = jinja2.PackageLoader("finetune_trainer.pages", "templates")
    found = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


@cache
def _text(name: str) -> str:
    return resources.files("finetune_trainer.pages").joinpath("templates", name).read_text(encoding="utf-8")
