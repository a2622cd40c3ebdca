"""report.html from run folders written by hand: every part is shown, whatever is absent is left out, hostile text stays
text, and the page is small and asks the network for nothing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import Task
from finetune_api.progress import ExitCode
from finetune_trainer import files
from finetune_trainer.data.media import Media
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError
from finetune_trainer.pages import page as pages
from finetune_trainer.pages import rows as wrong_rows
from finetune_trainer.pages.__main__ import main
from finetune_trainer.pages.comparison import best_of, compare
from finetune_trainer.pages.figures import clock, shown, title
from finetune_trainer.pages.folder import read_run
from finetune_trainer.pages.media import SIDE, keep_media
from finetune_trainer.pages.page import leave_page, run_page, write_page
from support.pages import ERRORS, HOSTILE, a_jpeg, a_record, a_run_folder, an_evaluation, an_mp3, metrics_lines

MEGABYTE = 1_000_000


class Page(HTMLParser):
    """What a browser would find: text outside of scripts and styles, tags, ids, addresses, and the charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.charts: dict[str, Any] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.ids |= {str(named["id"])} if "id" in named else set()
        self.addresses += [str(named[name]) for name in ("src", "href", "srcset", "poster", "data") if name in named]
        self.handlers += [name for name in named if name.startswith("on")]
        self._inside = f"{tag} {named.get('id', '')}".strip() if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag in ("script", "style") else self._inside
        self.text += " " if tag in ("td", "th", "dt", "dd", "p", "h1", "h2", "h3", "figcaption") else ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script charts":
            self.charts = json.loads(data)
        elif not self._inside:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(folder: Path) -> Page:
    return Page(run_page(read_run(folder)))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run that has every part."""
    return run_page(read_run(a_run_folder(tmp_path_factory.mktemp("full"))))


FEW = {"evaluation": an_evaluation(analysis={}), "metrics": metrics_lines(1), "profile": None}
"""Changes that leave hardly a chart: drawing takes the most time."""


@pytest.mark.parametrize("task", [task.value for task in Task])
def test_every_task_has_a_page_with_its_wrong_rows(task: str, tmp_path: Path) -> None:
    page = page_of(a_run_folder(tmp_path, task, **FEW))
    media = sum(role in ERRORS[task] for role in ("image", "audio"))
    assert page.words.count("row 1 of data/rows.csv") == 1
    assert page.tags.count("img") + page.tags.count("audio") == 24 * media
    for value in ERRORS[task].values():
        if isinstance(value, str):
            assert set(value.split()) <= set(page.words.split())


def test_a_page_shows_every_part_of_a_run(full: str) -> None:
    """The sections in their order, a chart for each picture, and the figures that no chart has."""
    page = Page(full)
    sections = {"result", "training", "evaluation", "errors", "folds", "forgetting", "data", "doubtful"}
    assert sections | {"configuration", "environment"} <= page.ids
    assert set(page.charts) == {
        "loss", "validation-0", "learning-rate", "grad-norm", "confusion", "reliability", "thresholds", "residuals",
        "residual-histogram", "entity-errors", "spans", "slices-0", "labels", "lengths",
    }  # fmt: skip
    assert set(page.charts) <= page.ids
    for said in (
        "On 36 test rows that training never saw, accuracy is 0.830: better than the 0.470 of a guess",
        "Best validation accuracy 0.800, at step 30.",
        "Expected calibration error 0.040",
        "praise has 28 of 168 rows",
        "fix encoding 4 0",
        "within training 3",
        "across splits: test 2",
        "class weights: praise 2.500",
        "text: swap 0.100",
        "accuracy 0.850 0.071 0.800 0.900",
        "accuracy 0.900 0.700 -0.200",
        "doubtful one",
        "learningRate: 5.0e-05",
        "memory 8.0 GiB",
        "torch 2.15.0",
        "1 min 15 s",
        "123 456",
        "2 Wh",
    ):
        assert said in page.words, said


def test_the_best_step_and_a_resume_are_marked_in_the_curves(full: str) -> None:
    chart = json.dumps(Page(full).charts["loss"])
    assert '{"step": 30, "what": "best"}' in chart
    assert '{"step": 16, "what": "resumed"}' in chart


MISSED = {"metric": "test_accuracy", "min": 0.9, "max": None, "value": 0.83, "passed": False}
WORKING = {"phase": "Running", "progress": {"step": 4, "totalSteps": 9}}
BROKEN = {"phase": "Failed", "failure": {"class": "DataError", "message": "row 3 is empty"}}


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        pytest.param(
            {"evaluation": None, "errors": None, "status": WORKING},
            "This run has not finished. It stands at step 4 of 9.",
            {"evaluation", "errors"},
            id="unfinished",
        ),
        pytest.param(
            {"evaluation": an_evaluation(best=None)},
            "No validation took place while it trained.",
            {"validation-0"},
            id="without validation",
        ),
        pytest.param({"evaluation": None, "status": BROKEN}, "row 3 is empty", {"evaluation"}, id="failed"),
        pytest.param(
            {"evaluation": an_evaluation(gate=[MISSED]), "status": WORKING},
            "accuracy is 0.830 and has to be at least 0.900.",
            set(),
            id="failed its gate",
        ),
        pytest.param(
            {"metrics": None, "evaluation": None, "status": None},
            "This run has not finished. It has not begun to train.",
            {"training", "evaluation"},
            id="hardly begun",
        ),
    ],
)
def test_a_page_of_any_state_of_a_run(changes: dict[str, Any], said: str, unsaid: set[str], tmp_path: Path) -> None:
    page = page_of(a_run_folder(tmp_path, **FEW | changes))
    assert said in page.words
    assert not unsaid & page.ids


def test_hostile_text_is_shown_as_text(full: str, tmp_path: Path) -> None:
    """In rows, labels, names, sources, messages, metrics and configuration; no tag, handler or script comes of it."""
    record = a_record(name=HOSTILE, note=HOSTILE)
    record["data"]["sources"] = [{"uri": HOSTILE, "rows": 1}]
    record["data"]["dedup"] = {HOSTILE: HOSTILE}
    record["versions"] = {HOSTILE: HOSTILE}
    confusion = {"labels": [HOSTILE, "b"], "counts": [[1, 2], [3, 4]]}
    analysis = {"confusion": confusion, "slices": [{"by": HOSTILE, "slice": HOSTILE, "metric": HOSTILE, "value": 1.0}]}
    error = {"text": HOSTILE, "label": HOSTILE, "prediction": HOSTILE, HOSTILE: HOSTILE, "source": HOSTILE, "row": 1}
    changes = {
        "run": record,
        "evaluation": an_evaluation(analysis=analysis, metrics={f"test_{HOSTILE}": 0.5}),
        "errors": [error] * 40,
        "profile": {"sides": {}, "warnings": [{"code": HOSTILE, "message": HOSTILE, "hint": HOSTILE}]},
    }
    text = run_page(read_run(a_run_folder(tmp_path / "hostile", **changes)))
    page = Page(text)
    assert page.text.count("<script>alert") > 20
    assert page.tags.count("script") == Page(full).tags.count("script")
    assert (page.tags.count("img"), page.handlers) == (0, [])
    assert "<script>alert" not in text
    assert HOSTILE in json.dumps(page.charts["confusion"])


def test_the_policy_allows_only_the_pages_own_scripts(full: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', full)
    (scripts,) = re.findall("script-src ([^;]*);", html.unescape(policy))
    assert html.unescape(policy).startswith("default-src 'none';")
    assert all(allowed.startswith("'sha256-") for allowed in scripts.split())


def test_a_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = run_page(read_run(a_run_folder(tmp_path, "multimodal-classification", **FEW)))
    assert all(address.startswith(("data:", "#")) for address in Page(text).addresses)
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?https?:", text.split("<script>")[0])


def test_a_page_of_much_is_below_three_megabytes(tmp_path: Path) -> None:
    """300 wrong rows of long texts, and more media than fit: as many as fit are shown, and it says how many do not."""
    folder = a_run_folder(tmp_path, "multimodal-classification", 300, **FEW)
    lines = [{**ERRORS["multimodal-classification"], "text": "word " * 20_000, "row": row} for row in range(300)]
    (folder / "errors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = an_mp3(120.0)
    for path in (folder / "errors").glob("*.mp3"):
        path.write_bytes(content)
    text = run_page(read_run(folder))
    assert MEGABYTE < len(text.encode()) < 3 * MEGABYTE
    assert 0 < Page(text).tags.count("audio") < 24
    assert "are left out to keep this page small" in text


def test_a_page_of_far_too_much_is_below_three_megabytes(tmp_path: Path) -> None:
    """What no run of ours leaves: thousands of columns in every wrong row."""
    line = {f"column {number}": "x" * 700 for number in range(80)}
    folder = a_run_folder(tmp_path, **FEW)
    (folder / "errors.jsonl").write_text("".join(json.dumps({**line, "row": row}) + "\n" for row in range(300)))
    assert len(run_page(read_run(folder)).encode()) < 3 * MEGABYTE


def test_torn_and_odd_files_make_a_page(tmp_path: Path) -> None:
    folder = a_run_folder(tmp_path, evaluation={"metrics": {"test_accuracy": None}, "analysis": {"confusion": []}})
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    (folder / "profile.json").write_text("[1, 2")
    (folder / "errors").mkdir(exist_ok=True)
    (folder / "errors" / "x.image.jpg").write_bytes(b"none")
    assert "support-mail" in page_of(folder).words


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run: it has no run\.json"):
        write_page(tmp_path)


def test_secrets_of_the_manifest_are_not_shown(full: str) -> None:
    assert "keys-of-the-store" not in full


def test_a_page_that_cannot_be_made_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> str:
        raise RuntimeError("no engine")

    folder = a_run_folder(tmp_path, **FEW)
    monkeypatch.setattr(pages, "vega", broken)
    leave_page(folder, [], [])
    assert "the run has no report.html: RuntimeError: no engine" in caplog.text
    assert not (folder / "report.html").exists()


def test_wrong_rows_keep_small_pictures_and_sounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the first rows of errors.jsonl, whatever the order of the rows; one that cannot be read is told in the log."""
    import numpy
    import soundfile  # type: ignore[import-untyped]
    from PIL import Image

    loud = tmp_path / "loud.wav"
    soundfile.write(loud, numpy.random.default_rng(0).uniform(-1, 1, (44_100 * 30, 2)), 44_100)
    pictures = [Media(f"{place}.png", None, a_jpeg(400), "00") for place in range(2)]
    values: list[dict[str, Any]] = [
        {"image": pictures[0], "label": "a"},
        {"audio": Media("loud.wav", str(loud), None, "00"), "label": "a"},
        {"image": Media("torn.png", None, b"torn", "00"), "label": "a"},
    ]
    rows = [Row(value, "rows.csv", place + 1) for place, value in enumerate(values)]
    errors = [
        {"image": {"path": "x", "sha256": "00"}, "source": "rows.csv", "row": row.number} for row in reversed(rows)
    ]
    keep_media(tmp_path, errors, rows)
    kept = {path.name: path for path in (tmp_path / files.ERROR_MEDIA).iterdir()}
    assert set(kept) == {"2.image.jpg", "1.audio.mp3"}
    with Image.open(kept["2.image.jpg"]) as image:
        assert max(image.size) == SIDE
    sound, rate = soundfile.read(kept["1.audio.mp3"])
    assert (rate, sound.ndim) == (16_000, 1)
    assert 9.5 < len(sound) / rate < 10.5
    assert "the report shows no image of row 3 of rows.csv" in caplog.text


@pytest.mark.parametrize(
    ("reference", "said", "right", "wrong"),
    [
        pytest.param("a red lamp", "a blue lamp", [("red", "missing")], [("blue", "wrong")], id="another word"),
        pytest.param("a lamp", "a lamp", [], [], id="the same"),
        pytest.param("a lamp", "", [("a lamp", "missing")], [("nothing", "wrong")], id="nothing"),
        pytest.param("a lamp", "a big lamp", [], [("big", "wrong")], id="a word more"),
    ],
)
def test_the_words_that_are_wrong_are_marked(
    reference: str, said: str, right: Sequence[Any], wrong: Sequence[Any]
) -> None:
    ours, theirs = wrong_rows.compare(reference, said)
    assert [(mark.text, mark.kind) for mark in ours if mark.kind] == right
    assert [(mark.text, mark.kind) for mark in theirs if mark.kind] == wrong


def test_an_answer_and_a_wrong_one_are_marked_in_a_long_context() -> None:
    context = "x " * 500 + "Ann met Bob" + " y" * 500
    start = context.index("Ann")
    marks = wrong_rows.in_context(context, [(start, "Ann", "right"), (start + 8, "Bob", "wrong")])
    assert [(mark.text, mark.kind) for mark in marks if mark.kind] == [("Ann", "right"), ("Bob", "wrong")]
    assert (marks[0].text, marks[-1].text) == ("… ", " …")
    assert sum(len(mark.text) for mark in marks) < 400


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (0.12345, "0.123"),
        (12.345, "12.35"),
        (1234.5, "1\u2009234"),
        (1e-5, "1e-05"),
        (1200, "1\u2009200"),
    ],
)
def test_numbers_are_short(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f1_macro", "F1 (macro)"),
        ("wrongTags", "wrong tags"),
        ("baseline_mse", "MSE of a guess"),
        ("recall@1", "recall@1"),
    ],
)
def test_metrics_have_names_that_people_read(name: str, text: str) -> None:
    assert title(name) == text


def test_times_are_short() -> None:
    assert [clock(seconds) for seconds in (None, 4.4, 61, 7384)] == ["\u2013", "4 s", "1 min 01 s", "2 h 03 min"]


# --- several runs -----------------------------------------------------------------------------------------------------


def report(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> dict[str, Any]:
    """What `python -m finetune_trainer.pages` prints."""
    assert main([str(argument) for argument in arguments]) == ExitCode.DONE
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_one_run_has_its_page_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_run_folder(tmp_path, **FEW)
    document = report(capsys, folder)
    assert document["page"] == str(folder / "report.html")
    assert "support-mail" in Page((folder / "report.html").read_text()).words


def test_runs_are_compared_by_metrics_and_by_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = an_evaluation(metrics={"test_accuracy": 0.7, "test_loss": 0.5})
    one, other = (
        a_run_folder(tmp_path / "fast"),
        a_run_folder(tmp_path / "slow", run=a_record(name="slow", learningRate=1e-5), evaluation=slow),
    )
    document = report(capsys, one, other, "--output", tmp_path / "both.html")
    best = {metric["name"]: metric["best"] for metric in document["metrics"]}
    assert best == {"accuracy": [True, False], "f1_macro": [False, False], "loss": [False, True]}
    assert document["fields"] == [{"name": "spec.training.learningRate", "values": [5e-05, 1e-05]}]
    assert [run["name"] for run in document["runs"]] == ["support-mail", "slow"]
    page = Page((tmp_path / "both.html").read_text())
    assert {"loss", "validation-loss", "validation-accuracy"} == set(page.charts)
    assert "spec.training.learningRate" in page.words
    assert not (one / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        pytest.param(
            {"run": a_record("text-regression", "other")},
            "The runs are of different tasks (text-classification, text-regression)",
            id="another task",
        ),
        pytest.param(
            {"run": {**a_record(name="other"), "data": {"sha256": "00"}}}, "did not have the same rows", id="other rows"
        ),
        pytest.param(
            {"run": a_record(name="other"), "evaluation": None, "status": {"phase": "Suspended"}},
            "other has no test metrics. This run has not finished.",
            id="unfinished",
        ),
    ],
)
def test_what_makes_runs_hard_to_compare_is_said(changes: dict[str, Any], note: str, tmp_path: Path) -> None:
    runs = [read_run(a_run_folder(tmp_path / "a")), read_run(a_run_folder(tmp_path / "b", **changes))]
    document = compare(runs)
    assert any(note in found for found in document["notes"])


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("accuracy", [0.5, 0.7, None], [False, True, False]),
        ("wer", [0.5, 0.7], [True, False]),
        ("f1", [0.5, 0.5], [False, False]),
        ("image_to_text_recall@1", [0.5, 0.6], [False, True]),
    ],
)
def test_the_best_is_the_lowest_error_or_the_highest_score(name: str, values: list[Any], best: list[bool]) -> None:
    assert best_of(name, values) == best


def test_runs_of_different_tasks_have_no_best(tmp_path: Path) -> None:
    other = a_run_folder(
        tmp_path / "b", run=a_record("text-regression"), evaluation=an_evaluation(metrics={"test_loss": 9})
    )
    document = compare([read_run(a_run_folder(tmp_path / "a")), read_run(other)])
    assert not any(any(metric["best"]) for metric in document["metrics"])
    assert [run["name"] for run in document["runs"]] == [f"{tmp_path.name}/a", f"{tmp_path.name}/b"]


def test_what_is_no_run_ends_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == ExitCode.CONFIG_ERROR
    assert "holds no run" in capsys.readouterr().err
