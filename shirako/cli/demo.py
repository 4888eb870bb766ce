"""`shirako demo`: a site in a box."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shirako.api.models import Lease
    from shirako.demo.box import Box


@click.command(
    epilog="""\b
Examples:
  shirako demo                 # stays up, with a lease to log in to, until Ctrl-C
  shirako demo --once          # one whole lease, checked; exit 0 only if all of it held
  shirako demo --once --json"""
)
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 200))
@click.option("--units", default=2, show_default=True, type=click.IntRange(1, 200))
@click.option("--once", is_flag=True, help="Live one whole lease, check it, and stop.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print the summary as JSON.")
@click.option(
    "--folder",
    default=Path("run/demo"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where its keys, ledgers and logs lie.",
)
@click.option(
    "--descriptor",
    default=Path("actors.xml"),
    show_default=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What the site is; nodes and directory are filled in.",
)
def demo(nodes: int, units: int, once: bool, as_json: bool, folder: Path, descriptor: Path) -> None:
    """Real nodes, a directory, three actor processes, and a lease on the nodes."""
    from shirako.client import Problem, Unreachable
    from shirako.demo.box import Box
    from shirako.demo.life import DemoFailed
    from shirako.demo.processes import NotUp
    from shirako.testbed import TestbedError

    if units > nodes:
        raise click.UsageError(f"--units {units} needs as many --nodes; there are {nodes}")
    # so that what was started is cleared up however we are asked to stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Box(folder, descriptor, nodes=nodes, keep_ports=True) as box:
            box.start(tell)
            good = asyncio.run(_demo(box, units, once=once, as_json=as_json))
            tell("clearing up")
    except (DemoFailed, NotUp, TestbedError, Problem, Unreachable, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        tell("clearing up")
        raise click.Abort from None
    if not good:
        raise click.ClickException("something of the guest is left; see above")


def tell(line: str) -> None:
    """Progress goes to standard error: standard output is for what was asked for."""
    click.echo(line, err=True)


async def _demo(box: Box, units: int, *, once: bool, as_json: bool) -> bool:
    from shirako.api import Tokens
    from shirako.client import Client
    from shirako.demo.life import Access, request, whole_life

    tokens = Tokens(box.descriptor.state)
    guest_token = tokens.create("demo", "guest")
    async with AsyncExitStack() as stack:

        async def client(name: str, token: str) -> Client:
            return await stack.enter_async_context(Client(box.actors.url(name), token))

        access = Access(
            guest=await client("guest", guest_token),
            site=await client("site", tokens.create("demo-site", "site-admin")),
            broker=await client("broker", tokens.create("demo-broker", "broker-admin")),
        )
        if once:
            summary = await whole_life(box, access, tell, units=units)
            if as_json:
                click.echo(json.dumps(summary.as_json(), indent=1))
            else:
                _print(summary.as_json())
            return summary.good
        lease = await request(box, access, tell, units=units)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        _invite(box, lease, guest_token)
        sys.stdout.flush()
        await stop.wait()
    return True


def _print(summary: dict[str, object]) -> None:
    for name, value in summary.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, one in value.items():
                shown = " > ".join(map(str, one)) if isinstance(one, list) else one
                click.echo(f"  {key}: {shown}")
        elif isinstance(value, list):
            for one in value:
                click.echo(f"{name}: {one}")
        else:
            click.echo(f"{name}: {value}")


def _invite(box: Box, lease: Lease, token: str) -> None:
    shirako = os.path.relpath(sys.argv[0])
    unit = lease.held[0].name
    click.echo(f"""
The lease is yours. In another terminal:

  export SHIRAKO_URL={box.actors.url("guest")} SHIRAKO_TOKEN={token}
  {shirako} lease show {lease.id}
  {shirako} lease ssh {lease.id} --unit {unit} -i {box.guest_key.private}
  {shirako} lease extend {lease.id} --for 1h
  {shirako} lease close {lease.id}

Ctrl-C ends the demo and clears everything up.""")
