"""RFC 3339 times as Kubernetes writes them, counted in seconds; the clock itself is the shell's."""

from __future__ import annotations

import calendar
import re

_TIME = re.compile(r"^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[-+]\d\d:\d\d)$")


def seconds(text: str) -> float:
    """Seconds since 1970 of `text`. Raises ValueError where it is no RFC 3339 time."""
    match = _TIME.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no RFC 3339 time such as 2026-01-31T12:00:00Z")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    whole = calendar.timegm((year, month, day, hour, minute, second))
    return whole + float(match[7] or 0) - _offset(match[8])


def elapsed(since: str, now: str) -> float:
    """Seconds from `since` to `now`; negative if `since` lies ahead."""
    return seconds(now) - seconds(since)


def _offset(zone: str) -> int:
    if zone in "Zz":
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
