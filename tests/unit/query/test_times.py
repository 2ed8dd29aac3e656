"""Times as people write them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.query import BadQuery, duration_to_nanoseconds, time_to_nanoseconds
from otlp_arrow.query.times import to_iso

NOW = 1_790_000_000_000_000_000
SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("now", NOW),
        ("30m", NOW - 1800 * SECOND),
        ("1h30m", NOW - 5400 * SECOND),
        ("2d", NOW - 172_800 * SECOND),
        ("250ms", NOW - 250_000_000),
        ("1.5s", NOW - 1_500_000_000),
        ("1790000000000000001", NOW + 1),
        (1, 1),
        (1.5, 1_500_000_000),
        ("2026-01-02T03:04:05Z", 1_767_323_045 * SECOND),
        ("2026-01-02 03:04:05+01:00", 1_767_319_445 * SECOND),
        ("2026-01-02T03:04:05.123456789Z", 1_767_323_045 * SECOND + 123_456_789),
        ("2026-01-02", 1_767_312_000 * SECOND),
        (datetime.datetime(2026, 1, 2, 3, 4, 5), 1_767_323_045 * SECOND),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), 1_767_323_045 * SECOND + 6000),
    ],
)
def test_a_time_is_read_as_it_is_meant(text: object, nanoseconds: int):
    assert time_to_nanoseconds(text, now_ns=NOW) == nanoseconds


@pytest.mark.parametrize(
    "wrong", ["", "soon", "30", "-1", -1, True, None, float("nan"), 2**63, "9" * 30, "1y", "२m", []]
)
def test_what_is_no_time_is_refused_by_name(wrong: object):
    if wrong == "30":  # nanoseconds after 1970, and so is any number
        assert time_to_nanoseconds(wrong) == 30
        return
    with pytest.raises(BadQuery, match="no time"):
        time_to_nanoseconds(wrong)


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        ("1h", 3600 * SECOND),
        ("1m 30s", 90 * SECOND),
        (7, 7),
        ("7", 7),
        (0.5, SECOND // 2),
        (datetime.timedelta(days=1), 86400 * SECOND),
    ],
)
def test_a_duration_is_read_as_it_is_meant(value: object, nanoseconds: int):
    assert duration_to_nanoseconds(value) == nanoseconds


@pytest.mark.parametrize("wrong", ["", "h", -1, "-5m", True, None, float("inf"), "5 minutes"])
def test_what_is_no_duration_is_refused_by_name(wrong: object):
    with pytest.raises(BadQuery, match="no duration"):
        duration_to_nanoseconds(wrong)


@given(st.integers(0, 2**62))
def test_a_time_survives_its_iso_text(nanoseconds: int):
    assert time_to_nanoseconds(to_iso(nanoseconds)) == nanoseconds
