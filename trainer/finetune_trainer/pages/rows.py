"""Rows that went wrong as a reader wants them: what was right beside what was said, the wrong part marked. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.pages.figures import short_uri, shown
from finetune_trainer.pages.folder import is_number

LONGEST = 700
"""Characters of a text that are shown."""
LONGEST_DIFF = 300
"""Words of two texts that are compared."""
AROUND = 160
"""Characters of a context before and after what is marked in it."""
SHORT = 120
PLACES = ("source", "row")


@dataclass(frozen=True)
class Mark:
    """A piece of text: `kind` is empty, right, wrong, missing, or said."""

    text: str
    kind: str = ""
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One labelled piece of a wrong row: marked text, or with `turns` a conversation."""

    title: str
    marks: Sequence[Mark] = ()
    turns: Sequence[tuple[str, str]] = ()
    chips: Sequence[Mark] = ()
    tokens: bool = False


@dataclass(frozen=True)
class Wrong:
    """A row that went wrong: where it stands, numbers about it, its parts, and names of media in it."""

    place: str
    facts: Mapping[str, str]
    parts: Sequence[Part]
    media: Mapping[str, str] = field(default_factory=dict)
    """Role to the name of its file."""


def wrong_row(error: Mapping[str, Any], task: str) -> Wrong:
    """One line of errors.jsonl."""
    left = dict(error)
    place = f"row {left.pop('row', '?')} of {short_uri(str(left.pop('source', 'the test rows')))}"
    media = {role: str(value["path"]) for role, value in left.items() if is_media(value)}
    left = {name: value for name, value in left.items() if name not in media and value is not None}
    parts = list(_known(left, task))
    parts += [_plain(name, value) for name, value in left.items() if not is_number(value)]
    facts = {name: shown(value) for name, value in left.items() if is_number(value)}
    return Wrong(place, facts, parts, media)


def is_media(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"path", "sha256"}


def _known(left: dict[str, Any], task: str) -> Iterator[Part]:
    """The parts whose meaning is known; what they show is taken out of `left`."""
    if {"tokens", "tags", "prediction"} <= left.keys():
        yield _tagged(left.pop("tokens"), left.pop("tags"), left.pop("prediction"))
    elif {"context", "answers", "prediction"} <= left.keys():
        yield from _read(left)
    elif {"label", "prediction"} <= left.keys():
        yield from _inputs(left, ("label", "prediction"))
        yield from _labelled(left.pop("label"), left.pop("prediction"), left)
    elif "rank" in left and {"text", "prediction"} <= left.keys():
        yield Part("Its own text", [Mark(clip(left.pop("text")), "right")])
        yield Part("Text found nearest", [Mark(clip(left.pop("prediction")), "wrong")])
    elif "hidden" in left and isinstance(left["hidden"], list):
        yield from _inputs(left, ("hidden",))
        yield Part("Hidden tokens", chips=[_hidden(item) for item in left.pop("hidden")[:20]])
    else:
        yield from _written(left, task)


def _written(left: dict[str, Any], task: str) -> Iterator[Part]:
    """A reference and what was written instead; of speech the text is the reference."""
    said = next((name for name in ("generated_text", "prediction") if isinstance(left.get(name), str)), None)
    known = ("target", "completion") + (("text",) if task == "automatic-speech-recognition" else ())
    reference = next((name for name in known if isinstance(left.get(name), str)), None)
    if said is None or reference is None:
        return
    yield from _inputs(left, (said, reference))
    right, wrong = compare(left.pop(reference), left.pop(said))
    yield Part("Reference", right)
    yield Part("Output", wrong)


def _inputs(left: dict[str, Any], last: Sequence[str]) -> Iterator[Part]:
    """What the model was given, before what it made of it."""
    for name in [name for name, value in left.items() if name not in last and not is_number(value)]:
        yield _plain(name, left.pop(name))


def _labelled(label: Any, prediction: Any, left: dict[str, Any]) -> Iterator[Part]:
    if is_number(label) and is_number(prediction):
        left.setdefault("error", prediction - label)
        yield Part("Expected", chips=[Mark(shown(label), "right")])
        yield Part("Predicted", chips=[Mark(shown(prediction), "wrong")])
        return
    wanted, given = _labels(label), _labels(prediction)
    yield Part("Expected", chips=[Mark(name, "right" if name in given else "missing") for name in wanted])
    yield Part("Predicted", chips=[Mark(name, "right" if name in wanted else "wrong") for name in given])


def _labels(value: Any) -> list[str]:
    found = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return found or ["none"]


def _tagged(words: Sequence[Any], tags: Sequence[Any], said: Sequence[Any]) -> Part:
    marks = [
        Mark(clip(str(word), SHORT), "wrong" if tag != guess else "right" if tag != "O" else "", _note(tag, guess))
        for word, tag, guess in zip(words[:LONGEST_DIFF], tags, said, strict=False)
    ]
    return Part("Words", marks, tokens=True)


def _note(tag: Any, guess: Any) -> str:
    return f"{tag} → {guess}" if tag != guess else "" if tag == "O" else str(tag)


def _hidden(item: Mapping[str, Any]) -> Mark:
    token, guess = str(item.get("token")), str(item.get("guess"))
    return Mark(token, "right") if token == guess else Mark(f"{token} → {guess}", "wrong")


def _read(left: dict[str, Any]) -> Iterator[Part]:
    """A context with the answer and what was found instead marked in it."""
    context, said = str(left.pop("context")), str(left.pop("prediction"))
    answers = [answer for answer in left.pop("answers") if isinstance(answer, dict)]
    yield from _inputs(left, ())
    spans = [(int(answer["answer_start"]), str(answer["text"]), "right") for answer in answers[:1]]
    if said and (start := context.find(said)) >= 0:
        spans.append((start, said, "wrong"))
    yield Part("Context", in_context(context, spans))
    yield Part("Expected", chips=[Mark(clip(str(answer["text"])), "missing") for answer in answers] or [_nothing()])
    yield Part("Answered", chips=[Mark(clip(said), "wrong") if said else _nothing("wrong")])


def _nothing(kind: str = "missing") -> Mark:
    return Mark("no answer", kind)


def in_context(context: str, spans: Sequence[tuple[int, str, str]]) -> list[Mark]:
    """The neighbourhood of some spans, (start, text, kind), with them marked; where they overlap the first wins."""
    ends = [(start, start + len(text), kind) for start, text, kind in spans]
    first = max(0, min((start for start, _, _ in ends), default=0) - AROUND)
    last = min(len(context), max((end for _, end, _ in ends), default=LONGEST) + AROUND)
    last = min(last, first + 3 * LONGEST)
    kinds = [""] * (last - first)
    for start, end, kind in reversed(ends):
        for place in range(max(start, first), min(end, last)):
            kinds[place - first] = kind
    marks = [Mark("… ")] if first else []
    place = first
    for match in re.finditer(r"(.)\1*", "".join({"": "-", "right": "r"}.get(kind, "w") for kind in kinds)):
        length = len(match.group())
        marks.append(Mark(context[place : place + length], kinds[place - first]))
        place += length
    return [*marks, Mark(" …")] if last < len(context) else marks


def compare(reference: str, said: str) -> tuple[list[Mark], list[Mark]]:
    """Both texts, the words that only one of them has marked."""
    ours, theirs = (text.split()[:LONGEST_DIFF] for text in (reference, said))
    right: list[Mark] = []
    wrong: list[Mark] = []
    for tag, start, end, from_, to in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        same = tag == "equal"
        right += [Mark(" ".join(ours[start:end]), "" if same else "missing")] if end > start else []
        wrong += [Mark(" ".join(theirs[from_:to]), "" if same else "wrong")] if to > from_ else []
    return right, wrong or [Mark("nothing", "wrong")]


def _plain(name: str, value: Any) -> Part:
    heading = name.replace("_", " ").capitalize()
    if isinstance(value, list) and value and all(isinstance(item, dict) and "content" in item for item in value):
        return Part(heading, turns=[(str(item.get("role", "")), clip(str(item["content"]))) for item in value[:20]])
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return Part(heading, chips=[Mark(clip(item, SHORT)) for item in value[:40]])
    return Part(heading, [Mark(clip(value if isinstance(value, str) else str(value)))])


def clip(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else text[:longest].rstrip() + " …"


def brief(error: Mapping[str, Any]) -> dict[str, str]:
    """A wrong row as one line of a table: what stands in it, cut short."""
    said = {name: value for name, value in error.items() if name not in PLACES}
    cells = {name: clip(_text_of(value), SHORT) for name, value in said.items()}
    return {**cells, "row": str(error.get("row", ""))}


def _text_of(value: Any) -> str:
    if is_media(value):
        return str(value["path"])
    if is_number(value):
        return shown(value)
    if isinstance(value, list):
        return ", ".join(_text_of(item) for item in value[:30])
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text_of(item)}" for name, item in list(value.items())[:8])
    return str(value)
