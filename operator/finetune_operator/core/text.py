"""Texts that fit into a status: each is cut to the maximum that its field has in the schema."""

from __future__ import annotations

from finetune_api.progress import MAX_LOG_TAIL, MAX_MESSAGE, MAX_NAME, Failure, FailureClass

TAIL_LINES = 30
"""What a status keeps of a log."""


SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ",
    31: "SIGSYS",
}  # fmt: skip
"""Linux's numbers of the signals that end a program."""


def signal_of(exit_code: int | None) -> str | None:
    """The signal that `exit_code` tells of: shells and container runtimes add 128 to its number."""
    return None if exit_code is None else SIGNALS.get(exit_code - 128)


def cut(text: str, most: int = MAX_MESSAGE) -> str:
    """`text`, its end replaced by … where it has more than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def name(text: str | None) -> str | None:
    return None if text is None else cut(text, MAX_NAME)


def tail(text: str | None) -> str | None:
    """The last lines of a log."""
    lines = (text or "").rstrip().splitlines()[-TAIL_LINES:]
    return "\n".join(lines)[-MAX_LOG_TAIL:] or None


def failure(
    class_: FailureClass,
    reason: str,
    message: str,
    hint: str | None = None,
    *,
    rank: int | None = None,
    pod: str | None = None,
    node: str | None = None,
    exit_code: int | None = None,
    signal: str | None = None,
    log_tail: str | None = None,
) -> Failure:
    """A Failure whose texts fit into the status."""
    return Failure(
        class_=class_,
        reason=cut(reason, MAX_NAME),
        message=cut(message),
        hint=cut(hint) if hint else None,
        rank=rank,
        pod=name(pod),
        node=name(node),
        exit_code=exit_code,
        signal=signal,
        log_tail=tail(log_tail),
    )
