"""Option values as people write them: durations, times, NAME=VALUE, key files.

Each function is a click type; raising `BadParameter` names the option by itself.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from click import BadParameter

from shirako.clock import RealClock, utc
from shirako.core.durations import parse_duration


def duration(text: str) -> int:
    """Seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise BadParameter(str(error)) from None


def time(text: str) -> datetime:
    """An aware time; `+30m` is so long from now."""
    if text.startswith("+"):
        return utc(RealClock().tick()) + timedelta(seconds=duration(text[1:]))
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        message = f"{text[:40]!r} is not a time: write 2026-12-01T10:00Z, or +30m from now"
        raise BadParameter(message) from None
    if moment.tzinfo is None:
        here = moment.astimezone().isoformat("T", "minutes")
        raise BadParameter(
            f"{text!r} names no time zone: write {moment.isoformat('T', 'minutes')}Z for UTC, "
            f"or {here} for the time here"
        )
    return moment


def pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE`"""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def public_keys(text: str) -> tuple[str, ...]:
    """The keys in a file of SSH public keys, one a line."""
    path = Path(text).expanduser()
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise BadParameter(f"{path} is not text") from None
    except OSError as error:
        raise BadParameter(f"{path}: {error.strerror}") from None
    if "PRIVATE KEY" in content:
        raise BadParameter(f"{path} is a private key: name the public half, {path}.pub")
    lines = (line.strip() for line in content.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise BadParameter(f"{path} holds no key")
    return keys
