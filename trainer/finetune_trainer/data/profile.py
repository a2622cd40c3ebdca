"""What the rows are like, and what about them is likely to make trouble: told before training, with what to do.

`look_at` reads the rows of a side once and keeps numbers only; `profile` says the numbers and the warnings in JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.media import Media, media_size, plain
from finetune_trainer.data.rows import Row, Rows
from finetune_trainer.data.split import Side

if TYPE_CHECKING:
    import numpy

SAMPLE = 20_000
"""Rows of which words are counted and media are opened; all rows are looked at for the rest."""
MOST_ROWS = 500_000
"""Of more rows as many are looked at, evenly spaced."""
BINS = 20
MOST_LABELS = 200
NAMED = 5
FEW_ROWS = 100
FEW_OF_A_LABEL = 10
UNEVEN = 10.0
SHORT_TEXT = 3
"""Characters below which a text can hardly say anything."""
MANY_SHORT = 0.05
MANY_DUPLICATES = 0.01
CONSTANT = 0.99
LONG_TAIL = 20.0
SHIFT = 0.2
FEW_PHRASES = 0.05
ENOUGH_WORDS = 2000


@dataclass(frozen=True)
class Warned:
    """Something about the rows that is likely to make trouble: in one word, with its numbers, and what to do."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class Look:
    """The rows of one side as numbers.

    `lengths` has one number a row, in `unit`; `inputs` and `targets` a hash of each row's; `columns` those of each
    role that is text. `words` and `phrases` count different words and different pairs of neighbours in a sample
    of `sampled_words`.
    """

    rows: int
    labels: dict[str, int]
    unit: str
    lengths: numpy.ndarray
    inputs: numpy.ndarray
    targets: numpy.ndarray
    columns: Mapping[str, numpy.ndarray]
    short: Mapping[str, int]
    words: int
    phrases: int
    sampled_words: int

    def plain(self) -> dict[str, Any]:
        """In JSON values."""
        return {
            "rows": self.rows,
            "labels": dict(Counter(self.labels).most_common(MOST_LABELS)),
            "lengths": _lengths(self.lengths, self.unit),
            "duplicates": self.rows - _different(self.inputs),
            "empty": sum(self.short.values()),
            "words": self.words,
        }


def profile(rows: Mapping[Side, Sequence[Row]], inputs: Sequence[str], target: str | None) -> dict[str, Any]:
    """What profile.json holds; `inputs` are the roles that the model sees, `target` that of the classes."""
    sides = {side: look_at(rows[side], inputs, target) for side in Side if len(rows.get(side, ()))}
    return {
        "sides": {side.value: look.plain() for side, look in sides.items()},
        "warnings": [asdict(warned) for warned in warnings(sides)],
    }


def look_at(rows: Sequence[Row], inputs: Sequence[str], target: str | None) -> Look:
    """Read the rows of a side, or many of them, once."""
    import numpy

    if len(rows) > MOST_ROWS:
        rows = Rows.of(rows).take(range(0, len(rows), -(-len(rows) // MOST_ROWS)))
    count = len(rows)
    every = max(1, count // SAMPLE)
    labels: Counter[str] = Counter()
    words: Counter[str] = Counter()
    phrases: set[int] = set()
    sampled = 0
    short: Counter[str] = Counter()
    lengths = numpy.full(count, numpy.nan, dtype=numpy.float32)
    keys, targets = numpy.zeros(count, numpy.uint64), numpy.zeros(count, numpy.uint64)
    columns: dict[str, numpy.ndarray] = {}
    unit = "characters"
    for place, row in enumerate(rows):
        given = {role: row.values[role] for role in inputs if role in row.values}
        keys[place] = _hash(given)
        targets[place] = _hash({role: value for role, value in row.values.items() if role not in given})
        if target is not None:
            labels.update(_labels(row.values[target]))
        for role, value in row.values.items():
            if isinstance(value, str):
                short[role] += role in given and len(value.strip()) < SHORT_TEXT
                columns.setdefault(role, numpy.zeros(count, numpy.uint64))[place] = _hash(value)
        sample = place % every == 0
        unit, lengths[place] = _length(given, sample)
        if sample:
            spoken = " ".join(_texts(given)).lower().split()
            words.update(spoken)
            phrases.update(map(hash, pairwise(spoken)))
            sampled += len(spoken)
    known = lengths[~numpy.isnan(lengths)]
    return Look(count, dict(labels), unit, known, keys, targets, columns, short, len(words), len(phrases), sampled)


def _hash(value: Any) -> int:
    text = json.dumps(plain(value), ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _labels(value: Any) -> Iterator[str]:
    return iter(value) if isinstance(value, tuple) else iter((str(value),))


def _texts(given: Mapping[str, Any]) -> Iterator[str]:
    """Every text in the inputs, those in lists of words and in messages included."""
    for value in given.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from (item["content"] if isinstance(item, dict) else str(item) for item in value)


def _length(given: Mapping[str, Any], sample: bool) -> tuple[str, float]:
    """How long a row's inputs are, and in what. Media are opened only in a `sample`, and are NaN otherwise."""
    for role, value in given.items():
        if isinstance(value, Media):
            unit = "seconds" if role == "audio" else "pixels"
            return unit, media_size(value, role) if sample else float("nan")
    words = [value for value in given.values() if isinstance(value, tuple)]
    if words and not any(isinstance(item, dict) for item in words[0]):
        return "words", float(sum(map(len, words)))
    return "characters", float(sum(map(len, _texts(given))))


def _lengths(lengths: numpy.ndarray, unit: str) -> dict[str, Any]:
    import numpy

    if not len(lengths):
        return {}
    counts, edges = numpy.histogram(lengths, bins=BINS)
    histogram = [
        {"from": round(float(low), 3), "to": round(float(high), 3), "rows": int(rows)}
        for rows, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
    numbers = {"mean": lengths.mean(), "median": numpy.median(lengths), "p95": numpy.quantile(lengths, 0.95)}
    said = {name: round(float(value), 2) for name, value in (numbers | {"max": lengths.max()}).items()}
    return {"unit": unit, "histogram": histogram, **said}


def _different(keys: numpy.ndarray) -> int:
    import numpy

    return len(numpy.unique(keys))


def warnings(sides: Mapping[Side, Look]) -> list[Warned]:
    """What is likely to make trouble, the training rows first."""
    train, test = sides[Side.TRAIN], sides.get(Side.TEST)
    found = [
        _few_rows(train),
        _few_of_a_label(train),
        _uneven(train),
        _duplicates(train),
        _conflicts(train),
        *_columns(train),
        _long_tail(train),
        _few_phrases(train),
    ]
    if test is not None:
        found += [_leaks(train, test), _few_to_test(test), _shift(train, test), _never_tested(train, test)]
    return [warned for warned in found if warned is not None]


def _few_rows(train: Look) -> Warned | None:
    if train.rows >= FEW_ROWS:
        return None
    hint = (
        "give more rows, train less of the model (spec.method.type: freeze or lora), or estimate with crossValidation"
    )
    return Warned("FewRows", f"there are {train.rows} rows to train on", hint)


def _few_of_a_label(train: Look) -> Warned | None:
    few = [label for label, count in train.labels.items() if count < FEW_OF_A_LABEL]
    if not few or train.rows < FEW_ROWS:
        return None
    message = f"{len(few)} of {len(train.labels)} labels have fewer than {FEW_OF_A_LABEL} training rows: {_named(few)}"
    return Warned("FewRowsOfLabel", message, "give more rows of them, or join or remove these labels")


def _uneven(train: Look) -> Warned | None:
    if len(train.labels) < 2:
        return None
    (most, largest), (least, smallest) = Counter(train.labels).most_common()[:: len(train.labels) - 1]
    if largest < UNEVEN * smallest:
        return None
    message = f"the labels are uneven: {largest} training rows of {most!r}, {smallest} of {least!r}"
    hint = "look at f1_macro rather than accuracy; try spec.dataset.balance (classWeights or oversample)"
    return Warned("UnevenLabels", message, hint)


def _duplicates(train: Look) -> Warned | None:
    equal = train.rows - _different(train.inputs)
    if equal <= MANY_DUPLICATES * train.rows:
        return None
    message = f"{equal} of {train.rows} training rows repeat the input of another row"
    return Warned("Duplicates", message, "set spec.dataset.dedup.method: Exact, unless they are meant to count more")


def _conflicts(train: Look) -> Warned | None:
    """Equal inputs with different targets: more different rows than different inputs."""
    import numpy

    pairs = numpy.unique(numpy.stack([train.inputs, train.targets]), axis=1)
    inputs, times = numpy.unique(pairs[0], return_counts=True)
    torn = int((times > 1).sum())
    if not torn:
        return None
    message = f"{torn} of {len(inputs)} different inputs stand in training with more than one target"
    return Warned("ConflictingTargets", message, "correct these rows; no model can learn both")


def _columns(train: Look) -> list[Warned]:
    import numpy

    found = []
    for role, hashes in train.columns.items():
        _, counts = numpy.unique(hashes, return_counts=True)
        if train.rows >= FEW_ROWS and counts.max() >= CONSTANT * train.rows:
            message = f"the column of {role} has one value in {int(counts.max())} of {train.rows} training rows"
            found.append(Warned("ConstantColumn", message, "it tells nothing: see that spec.dataset.columns is right"))
        short = train.short.get(role, 0)
        if short > MANY_SHORT * train.rows:
            message = f"{short} of {train.rows} texts of {role} have fewer than {SHORT_TEXT} characters"
            found.append(Warned("NearEmptyTexts", message, "remove them with spec.dataset.clean.minChars"))
    return found


def _long_tail(train: Look) -> Warned | None:
    import numpy

    if not len(train.lengths) or train.unit == "pixels":
        return None
    median, longest = float(numpy.median(train.lengths)), float(train.lengths.max())
    if longest < LONG_TAIL * max(median, 1.0):
        return None
    message = f"the longest input has {longest:g} {train.unit}, half of them have no more than {median:g}"
    hint = "look at the longest rows; long ones cost most of the time and memory, and are cut at maxLength"
    return Warned("LongTail", message, hint)


def _few_phrases(train: Look) -> Warned | None:
    if train.sampled_words < ENOUGH_WORDS or train.phrases >= FEW_PHRASES * train.sampled_words:
        return None
    message = f"the inputs repeat themselves: {train.phrases} different pairs of words in {train.sampled_words} words"
    hint = "rows made from few templates teach the template; give rows as people write them"
    return Warned("LittleVariety", message, hint)


def _leaks(train: Look, test: Look) -> Warned | None:
    import numpy

    seen = int(numpy.isin(test.inputs, train.inputs).sum())
    if not seen:
        return None
    message = f"{seen} of {test.rows} test rows stand in training, too: the test will look better than it is"
    return Warned("TestRowsInTraining", message, "leave spec.dataset.dedup.acrossSplits on, or correct the sources")


def _few_to_test(test: Look) -> Warned | None:
    """With n rows a share near one half is known to ±0.98/√n (95 %, normal approximation)."""
    if test.rows >= FEW_ROWS:
        return None
    message = f"{test.rows} test rows tell a share such as the accuracy only to ±{98 / test.rows**0.5:.0f} points"
    return Warned("FewTestRows", message, "hold out more rows, or estimate with evaluation.crossValidation")


def _shift(train: Look, test: Look) -> Warned | None:
    """Half the sum of the differences of the shares: total variation."""
    labels = train.labels.keys() | test.labels.keys()
    total = sum(train.labels.values()), sum(test.labels.values())
    if not all(total) or test.rows < FEW_OF_A_LABEL * len(labels):
        return None
    apart = sum(abs(train.labels.get(each, 0) / total[0] - test.labels.get(each, 0) / total[1]) for each in labels) / 2
    if apart < SHIFT:
        return None
    message = f"the test rows have other shares of the labels than the training rows: {apart:.0%} would have to change"
    return Warned("OtherShares", message, "hold out a stratified fraction, or see how the test source was drawn")


def _never_tested(train: Look, test: Look) -> Warned | None:
    missing = sorted(train.labels.keys() - test.labels.keys())
    if not missing:
        return None
    message = f"{len(missing)} of {len(train.labels)} labels have no test row: {_named(missing)}"
    return Warned("LabelNotTested", message, "hold out more rows, or a stratified fraction")


def _named(labels: Sequence[str]) -> str:
    return ", ".join(labels[:NAMED]) + (", …" if len(labels) > NAMED else "")
