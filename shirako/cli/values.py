"""Option values as people write them: durations, times, NAME=VALUE, key files."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from shirako.clock import RealClock, utc
from shirako.core.durations import parse_duration


class Duration(click.ParamType):
    """Seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Moment(click.ParamType):
    """An aware time; `+30m` is so long from now."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if text.startswith("+"):
            seconds = Duration().convert(text[1:], param, ctx)
            return utc(RealClock().tick()) + timedelta(seconds=seconds)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text[:40]!r} is not a time: write 2026-12-01T10:00Z or +30m", param, ctx)
        if moment.tzinfo is None:
            local = moment.astimezone()
            self.fail(
                f"{text!r} names no time zone: write {moment.isoformat('T', 'minutes')}Z for UTC, "
                f"or {local.isoformat('T', 'minutes')} for the time here",
                param,
                ctx,
            )
        return moment


class Property(click.ParamType):
    """`NAME=VALUE`"""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, rest = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, rest


class PublicKeys(click.ParamType):
    """A file of SSH public keys, one a line."""

    name = "file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        path = Path(value).expanduser()
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{path} is not text", param, ctx)
        except OSError as error:
            self.fail(f"{path}: {error.strerror}", param, ctx)
        if "PRIVATE KEY" in text:
            self.fail(f"{path} is a private key: name the public half, {path}.pub", param, ctx)
        lines = (line.strip() for line in text.splitlines())
        keys = tuple(line for line in lines if line and not line.startswith("#"))
        if not keys:
            self.fail(f"{path} holds no key", param, ctx)
        return keys


DURATION, MOMENT, PROPERTY, PUBLIC_KEYS = Duration(), Moment(), Property(), PublicKeys()
