"""Written rows for every task on text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count as numbers
from typing import Any

from support.models import FILLERS, WORDS

Row = dict[str, Any]

MOODS = {"angry": ("awful", "broken", "angry", "worst"), "calm": ("fine", "kindly", "please", "calm")}
SCORES = {"awful": -2.0, "poor": -1.0, "plain": -0.5, "decent": 0.5, "good": 1.0, "superb": 2.0}

FIRST = ("anna", "omar", "julia", "marco", "ines", "tariq", "wendy", "pavel")
LAST = ("miller", "stone", "berg", "lake", "carter", "fields")
PLACES = ("oslo", "lima", "new york", "cape town", "quito", "san juan", "berg", "fields")
TIMES = ("monday morning", "tuesday", "friday night", "march", "noon", "next week")

NUMBERS = ("one", "two", "three", "four", "five", "six")
COLOURS = ("red", "blue", "green", "black", "white", "brown")
THINGS = ("lamp", "chair", "table", "clock", "vase", "shelf")
DOINGS = ("buys", "sells", "paints", "repairs", "sees", "wants")

WORD_FOR_WORD = {
    **dict(zip(NUMBERS, ("un", "deu", "tri", "kvar", "kin", "ses"), strict=True)),
    **dict(zip(COLOURS, ("ruga", "blua", "verda", "nigra", "blanka", "bruna"), strict=True)),
    **dict(zip(THINGS, ("lampo", "sego", "tablo", "horlo", "vazo", "breto"), strict=True)),
    **dict(zip(DOINGS, ("acetas", "vendas", "farbas", "riparas", "vidas", "volas"), strict=True)),
}
"""A toy language: other words, and what is done stands last."""

HABITS = {
    "the dog": ("barks", "bone", "garden"),
    "the cat": ("purrs", "fish", "kitchen"),
    "the bird": ("sings", "seed", "tree"),
    "the horse": ("neighs", "hay", "stable"),
    "the bee": ("hums", "nectar", "hive"),
    "the frog": ("croaks", "fly", "pond"),
}


def pairs(count: int, seed: int = 0) -> list[Row]:
    """text, textPair, label: the mood is in one text and the topic in the other, the label tells both."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        mood, topic = draw.choice(list(MOODS)), draw.choice(["delivery", "invoice"])
        text = _among_fillers(draw, draw.sample(MOODS[mood], 2), 4)
        pair = _among_fillers(draw, draw.sample(WORDS[topic], 2), 4)
        rows.append({"text": f"{text} {number}", "textPair": pair, "label": f"{mood} about {topic}"})
    return rows


def topics(count: int, seed: int = 0) -> list[Row]:
    """text, label: each topic (none, some or all) that a text has words of."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        labels = [label for label in WORDS if draw.random() < 0.4]
        words = [word for label in labels for word in draw.sample(WORDS[label], 2)]
        rows.append({"text": f"{_among_fillers(draw, words, 6)} {number}", "label": labels})
    return rows


def ratings(count: int, seed: int = 0) -> list[Row]:
    """text, label: the sum of what its words are worth, from -6 to 6."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        words = draw.choices(list(SCORES), k=draw.randint(1, 3))
        text = f"{_among_fillers(draw, words, 6)} {number}"
        rows.append({"text": text, "label": sum(SCORES[word] for word in words)})
    return rows


def tagged(count: int, seed: int = 0) -> list[Row]:
    """tokens, tags (IOB2 of PERSON, PLACE, ORG): some names are a person's, a place's or a firm's by what is around."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        parts: list[tuple[str, str | None]] = []
        for kind in draw.sample(["PERSON", "PLACE", "ORG"], draw.randint(1, 3)):
            parts += [(_named(draw, kind), kind), (draw.choice(["said", "today", "and then", "as planned"]), None)]
            parts[-2:-2] = [({"PERSON": "mr", "PLACE": "in", "ORG": "firm"}[kind], None)] if draw.random() < 0.8 else []
        rows.append(_tags(parts))
    return rows


def _named(draw: random.Random, kind: str) -> str:
    if kind == "PERSON":
        return f"{draw.choice(FIRST)} {draw.choice(LAST)}"
    return draw.choice(PLACES) if kind == "PLACE" else f"{draw.choice(LAST)} ltd"


def _tags(parts: Sequence[tuple[str, str | None]]) -> Row:
    tokens, tags = [], []
    for text, kind in parts:
        for place, word in enumerate(text.split()):
            tokens.append(word)
            tags.append("O" if kind is None else f"{'I' if place else 'B'}-{kind}")
    return {"tokens": tokens, "tags": tags}


def questions(count: int, seed: int = 0, unanswerable: float = 0.15, long: float = 0.15) -> list[Row]:
    """question, context, answers (SQuAD's): who, where or when, of a meeting in the midst of other words.

    A share `unanswerable` does not tell, with no answers; a share `long` has about 150 words before the facts or
    after, more than a small model reads at once.
    """
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        facts = {"who": f"{draw.choice(FIRST)} {draw.choice(LAST)}", "where": draw.choice(PLACES[:6])}
        facts["when"] = draw.choice(TIMES)
        asked = draw.choice(list(facts))
        told = [f"{_LINK[kind]} {fact}" for kind, fact in facts.items()]
        if draw.random() < unanswerable:
            told.remove(f"{_LINK[asked]} {facts.pop(asked)}")
        draw.shuffle(told)
        around = [_filler_words(draw, draw.randint(1, 6)), _filler_words(draw, draw.randint(1, 6))]
        if draw.random() < long:
            around[draw.randrange(2)] = _filler_words(draw, 150)
        context = f"{around[0]} meeting {number} {' '.join(told)} {around[1]}"
        question = f"{asked} is meeting {number}"
        rows.append({"question": question, "context": context, "answers": _answers(context, asked, facts.get(asked))})
    return rows


_LINK = {"who": "with", "where": "in", "when": "on"}


def _answers(context: str, asked: str, fact: str | None) -> dict[str, list[Any]]:
    if fact is None:
        return {"text": [], "answer_start": []}
    link = f" {_LINK[asked]} {fact}"
    return {"text": [fact], "answer_start": [context.index(link) + len(link) - len(fact)]}


def headlines(count: int, seed: int = 0) -> list[Row]:
    """source, target: a record of many facts, in any order, and the headline that keeps three of them."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        who, city, thing, colour = map(draw.choice, (FIRST, PLACES[:2], THINGS, COLOURS))
        facts = [f"customer {who}", f"city {city}", f"item {thing}", f"colour {colour}", f"order {number}"]
        draw.shuffle(facts)
        rows.append({"source": " , ".join(facts), "target": f"{who} wants a {colour} {thing}"})
    return rows


def translations(count: int, seed: int = 0) -> list[Row]:
    """source, target: each word has its own in the other language, where what is done stands last."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        who, done, many, colour, thing = map(draw.choice, (FIRST, DOINGS, NUMBERS, COLOURS, THINGS))
        other = [WORD_FOR_WORD[word] for word in (many, thing, colour, done)]
        rows.append({"source": f"{who} {done} {many} {colour} {thing}", "target": " ".join([who, *other])})
    return rows


def completions(count: int, seed: int = 0) -> list[Row]:
    """prompt, completion: the order that a customer gave, told again by a rule."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        many, colour, thing = map(draw.choice, (NUMBERS, COLOURS, THINGS))
        rows.append({"prompt": f"order {many} {colour} {thing}", "completion": f" {thing} in {colour} times {many}"})
    return rows


def conversations(count: int, seed: int = 0) -> list[Row]:
    """messages: one or two such orders, after a system's message or none."""
    draw = random.Random(seed)
    orders = iter(completions(2 * count, seed))
    rows = []
    for _ in range(count):
        messages = [{"role": "system", "content": "you take orders"}] if draw.random() < 0.5 else []
        for order in (next(orders) for _ in range(draw.randint(1, 2))):
            messages.append({"role": "user", "content": order["prompt"]})
            messages.append({"role": "assistant", "content": order["completion"].strip()})
        rows.append({"messages": messages})
    return rows


def plain(count: int, seed: int = 0) -> list[Row]:
    """text: such an order and its answer as one text."""
    return [{"text": row["prompt"] + row["completion"]} for row in completions(count, seed)]


def preferences(count: int, seed: int = 0) -> list[Row]:
    """prompt, chosen, rejected: a good answer names the thing that was asked for, a bad one another."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        asked, other = draw.sample(THINGS, 2)
        manner = draw.choice(["sure , here is", "please take", "you get"])
        prompt = f"customer {number} wants a {draw.choice(COLOURS)} {asked}"
        rows.append({"prompt": prompt, "chosen": f" {manner} the {asked}", "rejected": f" {manner} the {other}"})
    return rows


def habits(count: int, seed: int = 0) -> list[Row]:
    """text: who it is about tells the other words."""
    draw = random.Random(seed)
    rows = []
    for _, (who, (sound, food, home)) in zip(range(count), _cycle(draw, list(HABITS.items())), strict=False):
        parts = [f"it {sound}", f"it eats {food}", f"it lives in the {home}"]
        draw.shuffle(parts)
        rows.append({"text": f"{who} is here . {' and '.join(parts)}"})
    return rows


def _cycle(draw: random.Random, values: list[Any]) -> Iterator[Any]:
    for _ in numbers():
        yield from draw.sample(values, len(values))


def _filler_words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(FILLERS, k=count))


def _among_fillers(draw: random.Random, words: Sequence[str], fillers: int) -> str:
    """The words, in any order, among up to that many which mean nothing (one at least)."""
    mixed = [*words, *draw.choices(FILLERS, k=draw.randint(1, fillers))]
    draw.shuffle(mixed)
    return " ".join(mixed)
