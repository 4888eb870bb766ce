"""`shirako testbed`: real nodes and a private directory server, until Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Literal

import click


@click.command(
    epilog="""\b
Examples:
  shirako testbed --nodes 4
  shirako testbed --folder run/testbed --json
  shirako testbed --clear      # what a killed one left behind"""
)
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--folder",
    default=Path("run/testbed"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where its keys, logs and directory data lie.",
)
@click.option(
    "--mode",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "namespaces", "processes"]),
    help="namespaces: nodes with their own network, processes and files (root); processes: sshd "
    "processes of your own, without accounts for guests.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what there is as JSON.")
@click.option("--clear", is_flag=True, help="Only clear what a killed testbed left, and stop.")
def testbed(
    nodes: int,
    folder: Path,
    mode: Literal["auto", "namespaces", "processes"],
    as_json: bool,
    clear: bool,
) -> None:
    """Start a private slapd and NODES nodes, each with its own sshd, until Ctrl-C.

    Nothing of the machine's own services is touched, and all is removed at the end. What a killed
    testbed left in the same folder is found and cleared first.
    """
    from shirako.testbed import Testbed, TestbedError

    def tell(line: str) -> None:
        click.echo(line, err=True)

    try:
        if clear:
            click.echo(f"cleared {Testbed.clear(folder)} thing(s) left in {folder}")
            return
        with Testbed(folder, nodes=nodes, mode=mode) as bed:
            site = bed.start(tell)
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(site), default=str, indent=1))
            else:
                for node in site.nodes:
                    click.echo(
                        f"{node.name}: ssh -i {site.admin_key} -p {node.port} "
                        f"{node.admin_user}@{node.host}"
                    )
                click.echo(f"directory: {site.directory.url} {site.directory.base_dn}")
            sys.stdout.flush()
            tell("Ctrl-C ends it")
            wait_for_stop()
            tell("clearing up")
    except TestbedError as error:
        raise click.ClickException(str(error)) from error


def wait_for_stop() -> None:
    """Until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
