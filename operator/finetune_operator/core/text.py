"""Texts that fit into a status: each is cut to the maximum that its field has in the schema."""

from __future__ import annotations

from finetune_api.progress import MAX_LOG_TAIL, MAX_MESSAGE, MAX_NAME, Failure, FailureClass

TAIL_LINES = 30
"""What a status keeps of a log."""


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
