"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako.core.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("2h", 7_200),
        ("3d", 259_200),
        ("1h30m", 5_400),
        ("1d 2h 3m 4s", 93_784),
        (" 5m ", 300),
        ("0s", 0),
        ("007m", 420),
        ("90m", 5_400),
    ],
)
def test_reads(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "h", "soon", "-5m", "1.5h", "30m1h", "1m1m", "5M", "5 m", "1h,30m", "1h\n", "5min",
     "\u0665m", "9" * 10 + "s", "PT1H"],
)  # fmt: skip
def test_refuses_and_shows_how(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 90s, 5m, 2h, 3d or 1h30m"):
        parse_duration(text)


def test_a_bare_number_is_asked_for_its_unit() -> None:
    with pytest.raises(ValueError, match="'90' has no unit: write 90s for seconds, 90m for minut"):
        parse_duration("90")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (5_400, "1h30m"), (86_401, "1d1s"), (-90, "-1m30s")],
)
def test_writes(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**13))
def test_what_is_written_is_read_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(alphabet="0123456789dhms -", max_size=12))
def test_what_is_read_is_written_shortest(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert parse_duration(format_duration(seconds)) == seconds
