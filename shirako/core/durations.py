"""Durations as people write them (`90s`, `5m`, `1h30m`), as whole seconds."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_EXAMPLES = "as 90s, 5m, 2h, 3d or 1h30m"
# Nine digits a part: far above any use, and far below where int() of a long text gets slow.
_FORM = re.compile(r" *".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}){unit})?" for unit in _UNITS))


def parse_duration(text: str) -> int:
    """Seconds in `text`: days, hours, minutes and seconds, in that order, each at most once.

    Raises `ValueError` whose message says how to write a duration.
    """
    trimmed = text.strip(" ")
    if re.fullmatch(r"[0-9]{1,9}", trimmed):
        raise ValueError(
            f"duration {text!r} has no unit: write {trimmed}s for seconds, {trimmed}m for minutes"
        )
    found = _FORM.fullmatch(trimmed)
    if not trimmed or found is None:
        raise ValueError(f"duration {text[:40]!r} is not readable: write it {_EXAMPLES}")
    return sum(int(amount) * _UNITS[unit] for unit, amount in found.groupdict("0").items())


def format_duration(seconds: int) -> str:
    """The shortest text that `parse_duration` reads back; a negative one gets a leading `-`."""
    if seconds == 0:
        return "0s"
    parts = ["-" if seconds < 0 else ""]
    rest = abs(seconds)
    for unit, size in _UNITS.items():
        amount, rest = divmod(rest, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts)
