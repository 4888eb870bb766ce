"""What people read: tables, JSON, times in UTC and local, remaining time."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from shirako.clock import RealClock
from shirako.core.durations import format_duration

_CONTROL = dict.fromkeys((*range(32), *range(127, 160)))
_ESCAPED = {code: f"\\u{code:04x}" for code in range(127, 160)}
"""Controls that JSON does not escape by itself."""


def plain(text: str) -> str:
    """Without control characters: what others wrote shall not steer this terminal."""
    return text.translate(_CONTROL)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns; nothing but a note when there are no rows."""
    lines = [[plain(str(cell)) for cell in row] for row in rows]
    if not lines:
        click.echo("none", err=True)
        return
    every = [list(headings), *lines]
    widths = [max(len(row[column]) for row in every) for column in range(len(headings))]
    for number, row in enumerate(every):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        text = "  ".join(padded).rstrip()
        click.echo(click.style(text, bold=True) if number == 0 else text)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """One line a fact; empty ones are left out."""
    told = [(name, plain(str(value))) for name, value in pairs if value not in (None, "", ())]
    width = max((len(name) for name, _ in told), default=0)
    for name, value in told:
        click.echo(f"{name.ljust(width)}  {value}")


def as_json(value: Any) -> None:
    """Models, or lists of them, as indented JSON."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False)
    click.echo(text.translate(_ESCAPED))


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def both(moment: datetime) -> str:
    """`2026-12-01 09:00:00Z (10:00:00 CET)`: UTC, then local where that differs."""
    local = moment.astimezone()
    text = f"{moment:%Y-%m-%d %H:%M:%S}Z"
    if not local.utcoffset():
        return text
    day = "" if local.date() == moment.date() else f"{local:%Y-%m-%d} "
    return f"{text} ({day}{local:%H:%M:%S %Z})"


def short(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def ahead(moment: datetime) -> str:
    """How far off: `in 1h59m`, `3m ago`."""
    seconds = int(moment.timestamp()) - RealClock().tick()
    rough = abs(seconds) // 60 * 60 if abs(seconds) >= 600 else abs(seconds)
    return f"in {format_duration(rough)}" if seconds >= 0 else f"{format_duration(rough)} ago"


@contextmanager
def ticking(doing: str) -> Iterator[None]:
    """Says on a terminal what takes long, and for how long already; gone when it is done."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()

    def tick() -> None:
        seconds = 0
        while not ended.wait(1.0):
            seconds += 1
            click.echo(f"\r{doing} ... {seconds} s", nl=False, err=True)

    click.echo(f"{doing} ...", nl=False, err=True)
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        ended.set()
        ticker.join()
        click.echo("\r\x1b[K", nl=False, err=True)
