"""Following a lease: its states and its handlers' lines, as they come."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from shirako.cli import output
from shirako.cli.connection import Connection

if TYPE_CHECKING:
    from shirako.api.models import Lease, StoryLine
    from shirako.client import Client

INTERRUPTED = 130
"""The usual exit status after Ctrl-C: neither done nor refused."""


def follow(to: Connection, lease: str, *, until_active: bool) -> Lease:
    """Print what happens, to standard error, until it can be used or is over.

    Ctrl-C leaves the lease as it is, says how to go on, and ends with status 130.
    """
    try:
        return to.run(lambda client: _follow(client, lease, until_active=until_active))
    except KeyboardInterrupt:
        click.echo(
            f"\nlease {lease} goes on without you; look at it again with: "
            f"shirako lease watch {lease}",
            err=True,
        )
        raise click.exceptions.Exit(INTERRUPTED) from None


async def _follow(client: Client, lease: str, *, until_active: bool) -> Lease:
    from shirako.api.models import StoryEvent

    last: Lease | None = None
    async with aclosing(client.watch(lease)) as events:
        async for event in events:
            if isinstance(event, StoryEvent):
                click.echo(_told(event.line), err=True)
                continue
            if event.lease.state == "Ticketed" and (last is None or last.state != "Ticketed"):
                click.echo(f"waits for its start, {output.both(event.lease.start)}", err=True)
            was = last.degraded if last is not None else ""
            if event.lease.degraded != was:
                now = event.lease.degraded
                told = f"degraded: {now}" if now else "no longer degraded: all units work again"
                click.echo(output.plain(told), err=True)
            if event.lease.revoked and event.lease.revoked != (last.revoked if last else ""):
                told = f"it runs on to its end, and no further: {event.lease.revoked}"
                click.echo(output.plain(told), err=True)
            last = event.lease
            if until_active and last.state == "Active":
                break
    return last or await client.lease(lease)


def _told(line: StoryLine) -> str:
    local = line.time.astimezone()
    if line.what == "log":
        return output.plain(f"{local:%H:%M:%S}  {line.by}: {line.note}")
    note = f": {line.note}" if line.note else ""
    return output.plain(f"{local:%H:%M:%S}  {line.state}{note}")
