"""Times are counted without a clock; the standard library's datetime is the judge."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.core.times import elapsed, seconds

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1970, 1, 2), datetime(2400, 1, 1), timezones=ZONES))
def test_seconds_are_those_of_datetime(moment: datetime) -> None:
    assert seconds(moment.isoformat()) == pytest.approx(moment.timestamp(), abs=1e-3)


def test_elapsed_is_negative_for_what_lies_ahead() -> None:
    assert elapsed("2026-11-21T10:00:30Z", "2026-11-21T10:00:00Z") == -30


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-21", "2026-11-21 10:00:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        seconds(text)
