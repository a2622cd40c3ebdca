"""What the end of a log tells of a program that left no Outcome: its symptom, its exception, torchrun's root cause."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune_api.progress import FailureClass
from finetune_operator.core.patterns import clean, compiled
from finetune_operator.core.symptoms import FRAME, PREFIX, TRACEBACK, line_at, symptom_of, without_mark
from finetune_operator.core.text import signal_of
from finetune_operator.core.times import seconds


@dataclass(frozen=True)
class LastWords:
    """What was found; None where the log does not say. `exit_code` is the rank's own, 128 + n for signal n.

    `consequence` where the program only met the end of another rank. `time` is in seconds since 1970, by the
    program's clock and time zone.
    """

    class_: FailureClass | None = None
    reason: str | None = None
    message: str | None = None
    hint: str | None = None
    consequence: bool = False
    rank: int | None = None
    exit_code: int | None = None
    time: float | None = None


@dataclass(frozen=True)
class RootCause:
    """What torchrun prints of the rank that failed first: see torch/distributed/elastic/multiprocessing/errors."""

    rank: int
    exit_code: int
    time: float | None
    said: str
    """The rank's traceback where its program is decorated with @record, else a sentence of torchrun's."""


BLOCK = compiled(r"(?s)Root Cause \(first observed failure\):\r?\n(.*)")
RANK = compiled(r"(?m)^\s*rank\s*: (\d{1,9})\b")
EXIT_CODE = compiled(r"(?m)^\s*exitcode\s*: (-?\d{1,9})\b")
TIME = compiled(r"(?m)^\s*time\s*: (\d{4}-\d\d-\d\d)_(\d\d:\d\d:\d\d)")
SAID = compiled(r"(?s)traceback\s*: (.*?)(?:\n=+|$)")
EXCEPTION = compiled(
    r"(?m)^\s*((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Failure|Timeout|Iteration))(?:$|: )"
)
LAUNCHERS = frozenset({"ChildFailedError"})
"""Exceptions that only tell of another process's."""


def last_words(log: str | None) -> LastWords:
    """What the last lines of a log tell."""
    text = clean(log or "")
    root = root_cause(text)
    if root is None:
        return _read(_without_prefixes(text))
    words = _words_of_rank(root, text)
    ended = f"was ended by {signal_of(root.exit_code)}" if signal_of(root.exit_code) else "ended"
    message = words.message or f"rank {root.rank} {ended} with exit code {root.exit_code}"
    return replace(words, message=message, rank=root.rank, exit_code=root.exit_code, time=root.time)


def root_cause(log: str) -> RootCause | None:
    """torchrun's last block about the first failure."""
    block = BLOCK.search(log)
    if block is None:
        return None
    text = log[block.start() :]
    rank, code, time, said = (pattern.search(text) for pattern in (RANK, EXIT_CODE, TIME, SAID))
    if rank is None or code is None:
        return None
    number = int(code.group(1) or 0)
    return RootCause(
        rank=int(rank.group(1) or 0),
        exit_code=number if number >= 0 else 128 - number,
        time=_seconds(f"{time.group(1)}T{time.group(2)}Z") if time else None,
        said=(said.group(1) or "").strip() if said else "",
    )


def _seconds(time: str) -> float | None:
    try:
        return seconds(time)
    except ValueError:
        return None


def _words_of_rank(root: RootCause, log: str) -> LastWords:
    """What the rank with the root cause said: in torchrun's block, else in its own lines of the log.

    Where no line is marked as its own, those without a mark are read; but a lost peer in them may be anybody's.
    """
    if TRACEBACK in root.said:
        return _read("\n".join(line.removeprefix("  ") for line in root.said.splitlines()))
    before = log[: log.rfind(TRACEBACK)] if TRACEBACK in log else log
    lines = before.splitlines()
    own = [line for line in lines if line.startswith(f"[rank{root.rank}]:")]
    words = _read(_without_prefixes("\n".join(own or [line for line in lines if not PREFIX.search(line)])))
    return LastWords() if words.consequence and not own else words


def _without_prefixes(log: str) -> str:
    return "\n".join(without_mark(line) for line in log.splitlines())


def _read(text: str) -> LastWords:
    """The symptom that a text without marks of ranks shows, else its last exception."""
    if found := symptom_of(text):
        symptom = found.symptom
        return LastWords(symptom.class_, symptom.reason, found.line, symptom.hint, symptom.consequence)
    text = FRAME.sub("", text)
    exceptions = [match for match in EXCEPTION.finditer(text) if _name(match.group(1)) not in LAUNCHERS]
    if not exceptions:
        return LastWords()
    last = exceptions[-1]
    return LastWords(reason=_name(last.group(1)), message=line_at(text, last.end() - 1))


def _name(path: str | None) -> str:
    return (path or "").rpartition(".")[2]
