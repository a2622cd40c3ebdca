"""Cleaning of texts: each step is a function from text to text, and what is lined up with a text stays so.

Answers stand at a character of their context, and each word has a tag: a step that would part them leaves the row as it
is, and says so with `NotAligned`.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from finetune_api.clean import Clean, UnicodeForm
from finetune_trainer.data import columns
from finetune_trainer.data.clean.step import NotAligned
from finetune_trainer.data.columns import Answer, Roles

ANSWERS, CONTEXT = "answers", "context"
"""Roles: spans, and the text that they stand in."""
KINDS = (columns.text, columns.words, columns.messages)
"""Kinds of values that are text."""
WHITE_SPACE = re.compile(r"\s+")
LINES = re.compile(r"\s*\n\s*")
CELLS = frozenset({"br", "option", "td", "th", "tr"})
"""Elements of HTML that stand apart from what is before them, beside those that a browser calls blocks."""

Text = Callable[[str], str]


@dataclass(frozen=True)
class TextStep:
    """How a whole text is cleaned, and how a part of one is, whose ends may be in the middle of a line."""

    whole: Text
    part: Text


def text_steps(clean: Clean) -> dict[str, TextStep]:
    """The steps that are asked for by the field that asks for each, in their order."""
    form = clean.normalize_unicode
    steps = {
        "fixEncoding": (clean.fix_encoding, TextStep(fix_encoding, fix_encoding)),
        "stripHtml": (clean.strip_html, TextStep(_tidy_text, _tidy_part)),
        "removeControl": (clean.remove_control, TextStep(remove_control, remove_control)),
        "normalizeUnicode": (form is not UnicodeForm.NONE, TextStep(*[partial(normalize, form)] * 2)),
        "collapseWhitespace": (clean.collapse_whitespace, TextStep(lambda text: squeeze(text).strip(), squeeze)),
    }
    return {name: step for name, (wanted, step) in steps.items() if wanted}


def fix_encoding(text: str) -> str:
    """Text that was read in the wrong encoding, as it was meant: `schÃ¶n` becomes `schön`. Nothing else changes."""
    import ftfy

    return text if text.isascii() else ftfy.fix_encoding(text)


def strip_html(text: str) -> str:
    """The text of HTML, without tags, comments, scripts and styles; what a browser puts on a new line is on one."""
    if "<" not in text and "&" not in text:
        return text
    from bs4 import BeautifulSoup, UnusualUsageWarning
    from bs4.builder import HTMLTreeBuilder
    from bs4.element import NavigableString

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualUsageWarning)
        soup = BeautifulSoup(f"{text}<wbr>", "html.parser")  # without a tag behind it, a last `&y` would lose its &
    for block in soup.find_all([*HTMLTreeBuilder.DEFAULT_BLOCK_ELEMENTS, *CELLS]):
        block.insert_before("\n")
        after = block.next_sibling
        if isinstance(after, NavigableString) and after.strip():
            block.insert_after("\n")
    return soup.get_text()


def _tidy_text(text: str) -> str:
    """Without the empty lines that tags leave; text without tags keeps its own."""
    stripped = strip_html(text)
    return stripped if stripped == text else LINES.sub("\n", stripped).strip()


def _tidy_part(text: str) -> str:
    return LINES.sub("\n", strip_html(text))


def remove_control(text: str) -> str:
    """Without control characters and terminal colours; white space, and joiners within emoji, stay."""
    if text.isprintable():
        return text
    from ftfy import fixes

    return fixes.remove_control_chars(fixes.remove_terminal_escapes(text))


def normalize(form: UnicodeForm, text: str) -> str:
    """Characters that can be written in several ways, in one: `é` is one character in NFC and two in NFD."""
    name: Any = form.value
    return text if text.isascii() else unicodedata.normalize(name, text)


def squeeze(text: str) -> str:
    """One blank for all white space between two words."""
    return WHITE_SPACE.sub(" ", text)


def clean_values(step: TextStep, roles: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """A row's values with those of `roles` cleaned. Raises NotAligned if answers would no longer stand in a context."""
    changed = {role: _cleaned(step, values[role]) for role in roles if role in values}
    if ANSWERS in values and changed.get(CONTEXT, values.get(CONTEXT)) != values.get(CONTEXT):
        changed |= _with_answers(step, values[CONTEXT], values[ANSWERS])
    return {**values, **changed}


def _cleaned(step: TextStep, value: Any) -> Any:
    """A value cleaned: text, words of which each stays one, or what is said in messages."""
    if isinstance(value, str):
        return step.whole(value)
    return tuple(
        {**item, "content": step.whole(item["content"])} if isinstance(item, dict) else step.whole(item) or item
        for item in value
    )


def _with_answers(step: TextStep, context: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """A cleaned context, and the answers where they stand in it now.

    It is cut where answers begin and end, and the parts are cleaned one by one: if they make up what the whole becomes,
    the place of each end is known.
    """
    if not all(context.startswith(answer.text, answer.start) and answer.text for answer in answers):
        raise NotAligned  # what is wrong with them is said by the task, of the row as it is in the file
    ends = sorted({0, len(context), *_ends(answers)})
    parts = [step.part(context[start:end]) for start, end in pairwise(ends)]
    cleaned, joined = step.whole(context), "".join(parts)
    before = joined.find(cleaned)
    if before < 0:
        raise NotAligned
    moved = dict(zip(ends, accumulate((len(part) for part in parts), initial=-before), strict=True))
    return {CONTEXT: cleaned, ANSWERS: tuple(_moved(answer, cleaned, moved) for answer in answers)}


def _ends(answers: Iterable[Answer]) -> Iterable[int]:
    return (end for answer in answers for end in (answer.start, answer.start + len(answer.text)))


def _moved(answer: Answer, context: str, moved: Mapping[int, int]) -> Answer:
    start, end = moved[answer.start], moved[answer.start + len(answer.text)]
    if start < 0 or end > len(context) or not context[start:end].strip():
        raise NotAligned
    return Answer(context[start:end], start)


def text_roles(roles: Roles) -> tuple[str, ...]:
    """The roles of a task whose values are text; labels are names, and stay as they are."""
    return tuple(role for role, kind in roles.kinds.items() if kind in KINDS and role != "tags")


def length(value: Any) -> int:
    """The characters of a text, of words with blanks between them, or of what is said in messages."""
    return len(as_one(value))


def as_one(value: Any) -> str:
    """All text of a value."""
    if isinstance(value, str):
        return value
    return " ".join(item["content"] if isinstance(item, dict) else item for item in value)
