"""`shirako states`: the state machines, drawn from the tables that run."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Examples:
  shirako states | grep CloseFailed
  shirako states --format mermaid > states.md"""
)
@click.option(
    "--format", "form", type=click.Choice(("text", "mermaid")), default="text", show_default=True
)
def states(form: str) -> None:
    """Print the three state machines: every state, and what leads where."""
    from shirako.core import diagram

    click.echo(diagram.mermaid() if form == "mermaid" else diagram.text())
