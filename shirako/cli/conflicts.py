"""`shirako site conflicts`: who sold more than it holds, and what shows it."""

from __future__ import annotations

import click

from shirako.cli import output
from shirako.cli.connection import Connection, connected


@click.command(
    epilog="""\b
Examples:
  shirako site conflicts
  shirako site conflicts --json | shirako verify -"""
)
@connected
def conflicts(to: Connection) -> None:
    """List brokers that were shown to have sold more than they hold.

    A site that refuses a ticket for that reason shows the proof to the guest, too; anybody can
    verify it offline, with `shirako verify`.
    """
    found = to.run(lambda client: client.conflicts())
    if to.json:
        output.as_json(found)
        return
    rows = [
        (one.broker, one.claim, one.type, f"{one.sold} of {one.held}", output.short(one.instant))
        for one in found
    ]
    output.table(("BROKER", "DELEGATION", "TYPE", "SOLD", "AT"), rows)
