"""Which commands there are. Each is loaded when it is called, so that the first word is quick."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

import click

# command -> module, what it is for
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("actors", "Run the actors of a descriptor."),
    "check": ("actors", "Check a descriptor: every fault, and how to mend it."),
    "keys": ("keys", "Make the keys that a descriptor names, and replace them."),
    "ca": ("ca", "Certificates for TLS: a small authority for a site."),
    "token": ("token", "Bearer tokens: who may do what."),
    "lease": ("lease", "A guest's leases."),
    "site": ("site", "A site: its nodes, leases and delegations."),
    "broker": ("broker", "A broker: its calendar, tickets and delegations."),
    "clock": ("clock", "The time that an actor goes by."),
    "backup": ("recovery", "Copy an actor's ledger, also while the actor runs."),
    "restore": ("recovery", "Put a backup where an actor's ledger was lost."),
    "recover": ("recovery", "Let an actor that was restored from a backup go on."),
    "rebuild": ("rebuild", "A ledger that was lost, from its mirror."),
    "states": ("states", "The three state machines, as text or diagrams."),
    "simulate": ("simulate", "Whole worlds under virtual time, with faults."),
    "verify": ("verify", "Check tickets, leases, receipts and audit records, offline."),
    "demo": ("demo", "A site in a box."),
    "testbed": ("testbed", "Nodes with sshd and a directory, to try things on."),
    "completion": ("completion", "Completion for your shell."),
}


class _Commands(click.Group):
    """A group whose commands lie in modules of their own; the attribute has the command's name."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [name for name, (module, _) in COMMANDS.items() if _is_there(module)]

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        module, _ = COMMANDS.get(name, ("", ""))
        if not module or not _is_there(module):
            return None
        loaded: click.Command = getattr(importlib.import_module(f"{__package__}.{module}"), name)
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """As ever; but what nobody expected is told in one line, and no traceback."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise
        except Exception as error:
            if os.environ.get("SHIRAKO_DEBUG"):
                raise
            told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise click.ClickException(
                f"this should not have happened: {told} (SHIRAKO_DEBUG=1 shows where)"
            ) from error

    def main(self, *args: Any, **extra: Any) -> Any:
        """As ever; but a file that can not be read or written is told, and not thrown."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if os.environ.get("SHIRAKO_DEBUG"):
                raise
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"Error: {where}{error.strerror or error}", err=True)
            sys.exit(1)


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(f"{__package__}.{module}") is not None


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  shirako check actors.xml && shirako keys actors.xml && shirako run actors.xml
  shirako token create ann --role guest
  shirako lease request --slice blue --type node.small --units 2 --for 2h --wait""",
)
@click.version_option(package_name="shirako", prog_name="shirako")
def main() -> None:
    """Lease machines: sites delegate them, brokers ticket them, guests lease them.

    Exit status: 0 done, 1 refused or failed, 2 wrong usage.
    """
