"""Cleaning changes what it is asked to change, drops what it is asked to drop, counts both, and parts nothing."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune_api.run import RunConfig
from finetune_trainer import predict
from finetune_trainer.data.clean import Cleaner, cleaner_of, input_cleaner
from finetune_trainer.data.columns import Answer, Where, audio, image
from finetune_trainer.data.media import read_samples
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError, DataError
from support.corpora.files import write_json_lines
from support.runs import a_run

NOTHING = {
    "fixEncoding": False,
    "removeControl": False,
    "normalizeUnicode": "None",
    "dropEmpty": False,
}
RATE = 1000


def a_config(task: str, clean: Mapping[str, Any]) -> RunConfig:
    run = a_run(Path("/nowhere"), "file:///rows.jsonl", "file:///model").with_("dataset", clean=dict(clean))
    return RunConfig.model_validate({**run.config, "task": task})


def a_cleaner(task: str = "text-classification", **clean: Any) -> Cleaner:
    """With the named steps only."""
    return cleaner_of(a_config(task, NOTHING | clean))


def a_row(**values: Any) -> Row:
    return Row(values, "rows", 1)


def cleaned(task: str, values: Mapping[str, Any], **clean: Any) -> Mapping[str, Any] | None:
    """A row's values after the named steps; None if it was dropped."""
    row = a_cleaner(task, **clean).row(a_row(**values))
    return None if row is None else row.values


@pytest.mark.parametrize(
    ("clean", "text", "expected"),
    [
        pytest.param({"fixEncoding": True}, "schÃ¶n", "schön", id="UTF-8 read as Latin-1"),
        pytest.param(
            {"fixEncoding": True}, "â€œso‟ &amp; soÂ\xa0on…", "“so‟ &amp; so\xa0on…", id="nothing but encoding"
        ),
        pytest.param({"fixEncoding": True}, "“curly” ﬁne ½", "“curly” ﬁne ½", id="what only looks odd stays"),
        pytest.param({"stripHtml": True}, "<p>Hello <b>wor</b>ld</p><p>two</p>", "Hello world\ntwo", id="paragraphs"),
        pytest.param({"stripHtml": True}, "x<br>y<br/>z", "x\ny\nz", id="line breaks"),
        pytest.param({"stripHtml": True}, "<script>a()</script><style>b</style>c<!-- d -->", "c", id="scripts, styles"),
        pytest.param({"stripHtml": True}, "Tom &amp; Jerry &lt;3", "Tom & Jerry <3", id="character references"),
        pytest.param({"stripHtml": True}, "a < b & c, AT&T", "a < b & c, AT&T", id="signs that are no tags"),
        pytest.param({"stripHtml": True}, "/etc/x&y", "/etc/x&y", id="a name that looks like a file's"),
        pytest.param({"stripHtml": True}, "plain\n\n  text", "plain\n\n  text", id="plain text keeps its white space"),
        pytest.param({"removeControl": True}, "a\x00b\ufeffc\x1b[31md\x7f", "abcd", id="control characters"),
        pytest.param({"removeControl": True}, "a\tb\r\nc\u200dd", "a\tb\r\nc\u200dd", id="white space, joiners stay"),
        pytest.param({"normalizeUnicode": "NFC"}, "cafe\u0301 ﬁ", "café ﬁ", id="NFC"),
        pytest.param({"normalizeUnicode": "NFD"}, "café", "cafe\u0301", id="NFD"),
        pytest.param({"normalizeUnicode": "NFKC"}, "ﬁ ½", "fi 1\u20442", id="NFKC"),
        pytest.param({"normalizeUnicode": "NFKD"}, "ﬁ é", "fi e\u0301", id="NFKD"),
        pytest.param({"collapseWhitespace": True}, "  a \t b\n\nc\xa0", "a b c", id="white space"),
        pytest.param({"fixEncoding": True, "normalizeUnicode": "NFC"}, "scho\u0308n cafÃ©", "schön café", id="both"),
    ],
)
def test_a_step_changes_a_text_and_counts_it(clean: dict[str, Any], text: str, expected: str) -> None:
    cleaner = a_cleaner(**clean)
    row = cleaner.row(a_row(text=text, label="x"))
    assert row is not None
    assert row.values == {"text": expected, "label": "x"}
    changed = {name: counts["changed"] for name, counts in cleaner.record().items()}
    assert set(changed) == set(clean)
    assert any(changed.values()) == (text != expected)


@settings(deadline=None)
@given(st.text(min_size=1))
def test_without_steps_every_text_stays_as_it_is(text: str) -> None:
    cleaner = a_cleaner()
    if text.strip():
        assert cleaner.row(a_row(text=text, label="x")) == a_row(text=text, label="x")
    assert cleaner.record() == {}


@settings(deadline=None)
@given(st.text(min_size=1))
def test_the_default_keeps_white_space_and_letters(text: str) -> None:
    """What is on without being asked for does not destroy: code and chats mean their line breaks and quotes."""
    kept = "def f(x):\n\treturn “x”  # ½ ﬁ <b>&amp;</b>\r\n"
    cleaner = cleaner_of(a_config("text-generation", {}))
    assert cleaner.row(a_row(text=kept)) == a_row(text=kept)
    once = cleaner.row(a_row(text=text))
    if once is not None:
        assert unicodedata.is_normalized("NFC", once.values["text"])


def test_labels_are_names_and_stay() -> None:
    values = {"text": "cafe\u0301", "label": "cafe\u0301"}
    assert cleaned("text-classification", values, normalizeUnicode="NFC") == {"text": "café", "label": "cafe\u0301"}


@pytest.mark.parametrize(
    ("clean", "text", "dropped_by"),
    [
        pytest.param({"dropEmpty": True, "removeControl": True}, "\ufeff", "dropEmpty", id="nothing left"),
        pytest.param({"dropEmpty": True, "stripHtml": True}, "<br> <hr>", "dropEmpty", id="nothing but tags"),
        pytest.param({"minChars": 3}, "ab", "minChars", id="too short"),
        pytest.param({"minChars": 3}, "abc", None, id="just long enough"),
        pytest.param({"maxChars": 3}, "abcd", "maxChars", id="too long"),
        pytest.param({"maxChars": 3}, "abc", None, id="just short enough"),
        pytest.param({"maxChars": 3, "collapseWhitespace": True}, "a      b", None, id="measured when it is clean"),
    ],
)
def test_a_row_is_dropped_by_the_step_that_counts_it(clean: dict[str, Any], text: str, dropped_by: str | None) -> None:
    cleaner = a_cleaner(**clean)
    row = cleaner.row(a_row(text=text, label="x"))
    dropped = {name for name, counts in cleaner.record().items() if counts["dropped"]}
    assert ((row is None), dropped) == (dropped_by is not None, {dropped_by} - {None})


@pytest.mark.parametrize(
    ("task", "values", "clean"),
    [
        pytest.param("text-classification", {"text": "\ufeff", "label": "x"}, {}, id="rows are not to be dropped"),
        pytest.param(
            "summarization", {"source": "a", "target": "<br>"}, {"dropEmpty": True, "stripHtml": True}, id="a target"
        ),
    ],
)
def test_a_text_of_which_nothing_is_left_is_an_error_where_it_is_not_dropped(
    task: str, values: dict[str, Any], clean: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"row 1 of rows: nothing is left of (text|target) when it is cleaned"):
        cleaned(task, values, removeControl=True, **clean)


def test_a_side_of_which_cleaning_leaves_nothing_is_named(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "rows.jsonl", [{"text": f"text {n}", "label": str(n % 2)} for n in range(40)])
    write_json_lines(tmp_path / "test.jsonl", [{"text": None, "label": "0"}, {"text": "<br>", "label": "1"}])
    test = {"sources": [{"uri": "./test.jsonl"}]}
    run = a_run(tmp_path, "./rows.jsonl", "./model").with_("dataset", test=test, clean={"stripHtml": True})
    with pytest.raises(DataError) as caught:
        load_data(RunConfig.model_validate(run.config))
    assert caught.value.message == "spec.dataset.test.sources: cleaning leaves none of their rows"


@pytest.mark.parametrize(
    ("context", "answer", "clean", "expected", "found"),
    [
        pytest.param("Cafe\u0301 Anna", "Anna", {"normalizeUnicode": "NFC"}, "Café Anna", "Anna", id="behind"),
        pytest.param("at Cafe\u0301", "Cafe\u0301", {"normalizeUnicode": "NFC"}, "at Café", "Café", id="in it"),
        pytest.param("  Anna \n met   Eve ", "Eve", {"collapseWhitespace": True}, "Anna met Eve", "Eve", id="blanks"),
        pytest.param("a   b   c", "a   b", {"collapseWhitespace": True}, "a b c", "a b", id="blanks in the answer"),
        pytest.param(
            "<div><p>Anna</p>\n\n<p>met <b>Eve</b>.</p></div>",
            "Eve",
            {"stripHtml": True},
            "Anna\nmet Eve.",
            "Eve",
            id="tags around it",
        ),
        pytest.param("zur schÃ¶nen Anna", "Anna", {"fixEncoding": True}, "zur schönen Anna", "Anna", id="encoding"),
        pytest.param("a\x00b Anna\x00", "Anna", {"removeControl": True}, "ab Anna", "Anna", id="control characters"),
    ],
)
def test_answers_stand_where_they_stood(
    context: str, answer: str, clean: dict[str, Any], expected: str, found: str
) -> None:
    spans = (Answer(answer, context.index(answer)), Answer(answer, context.index(answer)))
    values = {"question": "who?", "context": context, "answers": spans}
    after = cleaned("question-answering", values, **clean)
    assert after == {"question": "who?", "context": expected, "answers": (Answer(found, expected.index(found)),) * 2}


@pytest.mark.parametrize(
    ("context", "answer", "clean"),
    [
        pytest.param("e\u0301a", Answer("\u0301a", 1), {"normalizeUnicode": "NFC"}, id="begins within a character"),
        pytest.param("x <b>y</b>", Answer("<b>", 2), {"stripHtml": True}, id="is a tag"),
        pytest.param("a  b", Answer("x", 3), {"collapseWhitespace": True}, id="is not there: the task says so"),
    ],
)
def test_a_row_whose_answer_would_be_lost_is_left_as_it_is(context: str, answer: Answer, clean: dict[str, Any]) -> None:
    row = a_row(question="who?", context=context, answers=(answer,))
    cleaner = a_cleaner("question-answering", **clean)
    assert cleaner.row(row) == row
    assert cleaner.record() == {next(iter(clean)): {"changed": 0, "dropped": 0, "left": 1}}


@settings(deadline=None)
@given(st.data())
def test_no_context_loses_its_answers(data: st.DataObject) -> None:
    """Whatever the text, and wherever the answer: it is the same text, cleaned, at its place, or the row is left."""
    pieces = st.sampled_from(["a", "e\u0301", "Ã¶", "  ", "\n", "\x00", "<p>", "</p>", "&amp;", "Anna"])
    parts = data.draw(st.lists(pieces, min_size=1, max_size=12))
    first = data.draw(st.integers(0, len(parts) - 1))
    end = data.draw(st.integers(first + 1, len(parts)))
    answer = Answer("".join(parts[first:end]), len("".join(parts[:first])))
    wanted = {"stripHtml": True, "collapseWhitespace": True, "dropEmpty": True, "fixEncoding": True}
    values = {"question": "who?", "context": "".join(parts), "answers": (answer,)}
    after = cleaned("question-answering", values, **wanted, removeControl=True, normalizeUnicode="NFC")
    for found in after["answers"] if after else ():
        assert after is not None
        assert after["context"][found.start : found.start + len(found.text)] == found.text
        assert found.text.strip() or not answer.text.strip()


def test_each_word_keeps_its_tag() -> None:
    """A word of which nothing would be left stays, as the tags are as many as before."""
    values = {"tokens": ("Cafe\u0301", "\ufeff", "schÃ¶n", "a  b"), "tags": ("B", "O", "O", "cafe\u0301")}
    clean = {"normalizeUnicode": "NFC", "fixEncoding": True, "removeControl": True, "collapseWhitespace": True}
    after = cleaned("token-classification", values, **clean)
    assert after == {**values, "tokens": ("Café", "\ufeff", "schön", "a b")}


def test_what_is_said_in_messages_is_cleaned_and_who_says_it_stays() -> None:
    values = {"messages": ({"role": "user", "content": "Cafe\u0301\n\n?"}, {"role": "assistant", "content": "Oui."})}
    after = cleaned("text-generation", values, normalizeUnicode="NFC")
    said = ({"role": "user", "content": "Café\n\n?"}, {"role": "assistant", "content": "Oui."})
    assert after == {"messages": said}


def a_clip(samples: numpy.ndarray) -> Any:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return audio({"bytes": file.getvalue(), "path": "clip.wav"}, Where("row 1", "audio", "audio"))


def tone(seconds: float, level: float = 0.5) -> numpy.ndarray:
    return (level * numpy.sin(numpy.arange(round(seconds * RATE)) * 0.7)).astype("float32")


def silence(seconds: float) -> numpy.ndarray:
    return numpy.zeros(round(seconds * RATE), dtype="float32")


def test_silence_is_cut_from_both_ends_and_the_file_stays() -> None:
    clip = a_clip(numpy.concatenate([silence(0.4), tone(0.2), silence(0.1), tone(0.2), tone(0.3, 0.0005)]))
    after = cleaned("audio-classification", {"audio": clip, "label": "x"}, audio={"trimSilence": 40})
    assert after is not None
    assert after["audio"].part == (400, 900)
    assert (after["audio"].sha256, len(read_samples(after["audio"], "row 1")[0])) == (clip.sha256, 500)


def test_a_clip_in_which_nothing_sounds_is_kept() -> None:
    values = {"audio": a_clip(silence(0.5)), "label": "silence"}
    assert cleaned("audio-classification", values, audio={"trimSilence": 40}) == values


@pytest.mark.parametrize(
    ("clip", "clean", "dropped_by"),
    [
        pytest.param(tone(0.1), {"minSeconds": 0.2}, "minSeconds", id="too short"),
        pytest.param(tone(0.3), {"minSeconds": 0.2}, None, id="long enough"),
        pytest.param(
            numpy.concatenate([silence(1), tone(0.1)]), {"minSeconds": 0.2, "trimSilence": 40}, "minSeconds", id="cut"
        ),
        pytest.param(tone(0.3), {"maxSeconds": 0.2}, "maxSeconds", id="too long"),
        pytest.param(numpy.clip(tone(0.3, 3), -1, 1), {"dropClipped": 0.1}, "dropClipped", id="clipped"),
        pytest.param(tone(0.3, 0.99), {"dropClipped": 0.1}, None, id="loud, but not clipped"),
        pytest.param(numpy.clip(tone(0.3, 3), -1, 1), {}, None, id="nothing is asked for"),
    ],
)
def test_a_clip_is_dropped_by_the_step_that_counts_it(
    clip: numpy.ndarray, clean: dict[str, Any], dropped_by: str | None
) -> None:
    cleaner = a_cleaner("audio-classification", audio=clean)
    row = cleaner.row(a_row(audio=a_clip(clip), label="x"))
    dropped = {name for name, counts in cleaner.record().items() if counts["dropped"]}
    assert ((row is None), dropped) == (dropped_by is not None, {dropped_by} - {None})


@pytest.mark.parametrize(
    ("task", "read"),
    [pytest.param("image-classification", image, id="image"), pytest.param("audio-classification", audio, id="clip")],
)
def test_a_file_that_cannot_be_read_is_dropped_if_that_is_asked_for(task: str, read: Any) -> None:
    role = task.split("-")[0]
    row = a_row(**{role: read({"bytes": b"no such thing", "path": "x"}, Where("row 1", role, role)), "label": "x"})
    assert a_cleaner(task).row(row) == row
    cleaner = a_cleaner(task, dropCorrupt=True)
    assert cleaner.row(row) is None
    assert cleaner.record()["dropCorrupt"] == {"changed": 0, "dropped": 1}


@pytest.mark.parametrize(
    ("mode", "changed"), [pytest.param("L", 1, id="grey"), pytest.param("RGBA", 1, id="alpha"), ("RGB", 0)]
)
def test_images_of_another_mode_are_counted(mode: str, changed: int) -> None:
    file = io.BytesIO()
    Image.new(mode, (4, 4)).save(file, "PNG")
    cleaner = a_cleaner("image-classification")
    cleaner.row(a_row(image=image({"bytes": file.getvalue()}, Where("row 1", "image", "image")), label="x"))
    assert cleaner.record() == {"mode": {"changed": changed, "dropped": 0}}


def test_rows_that_lack_a_modality_have_nothing_to_clean_of_it() -> None:
    row = a_row(text="aa", image=image({"bytes": b"x"}, Where("row 1", "image", "image")), label="x")
    without = a_row(text="aa", label="x")
    mute = a_row(audio=audio({"bytes": b"x"}, Where("row 1", "audio", "audio")), label="x")
    wanted = {"dropCorrupt": True, "minChars": 2, "maxChars": 3, "audio": {"trimSilence": 40, "minSeconds": 1}}
    cleaner = a_cleaner("multimodal-classification", **wanted)
    assert [cleaner.row(row) for row in (without, row, mute)] == [without, None, None]
    assert cleaner.record()["dropCorrupt"] == {"changed": 0, "dropped": 2}


@pytest.mark.parametrize(
    ("task", "clean", "field"),
    [
        pytest.param("image-classification", {"stripHtml": True}, "stripHtml", id="HTML in images"),
        pytest.param("token-classification", {"stripHtml": True}, "stripHtml", id="HTML in words"),
        pytest.param("audio-classification", {"collapseWhitespace": True}, "collapseWhitespace", id="blanks in clips"),
        pytest.param("automatic-speech-recognition", {"minChars": 3}, "minChars", id="characters of clips"),
        pytest.param("image-classification", {"maxChars": 3}, "maxChars", id="characters of images"),
        pytest.param("text-classification", {"dropCorrupt": True}, "dropCorrupt", id="corrupt texts"),
        pytest.param("image-classification", {"audio": {"minSeconds": 1}}, "audio", id="seconds of images"),
    ],
)
def test_what_finds_nothing_to_clean_is_refused(task: str, clean: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"spec.dataset.clean.{field}: {task} reads ") as caught:
        a_cleaner(task, **clean)
    assert caught.value.hint == "leave it out"


def test_rows_to_predict_are_changed_as_in_training_and_never_dropped() -> None:
    config = a_config("summarization", {"stripHtml": True, "minChars": 5, "collapseWhitespace": True})
    cleaner = input_cleaner(config)
    rows = [a_row(source=text, target="<b>kept</b>") for text in ("<p>cafe\u0301  au</p>", "<br>", "a")]
    after = [cleaner.row(row) for row in rows]
    assert [row.values["source"] for row in after if row] == ["café au", "<br>", "a"]
    assert {row.values["target"] for row in after if row} == {"<b>kept</b>"}


def test_an_answer_to_a_context_that_was_cleaned_comes_with_it() -> None:
    """Its start counts in what the model read; where nothing changed, that is what was given."""
    config = a_config("question-answering", {"collapseWhitespace": True})
    given = [a_row(question="who?", context=context) for context in ("it  was   Anna", "it was Eve")]
    read = predict.cleaned(given, config)
    said = [{"answer": "Anna", "start": 7, "score": 1.0}, {"answer": "Eve", "start": 7, "score": 1.0}]
    assert list(predict.numbered(given, read, said)) == [
        {"row": 1, **said[0], "context": "it was Anna"},
        {"row": 1, **said[1]},
    ]
