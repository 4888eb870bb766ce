"""`shirako completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
Examples:
  eval "$(shirako completion bash)"
  shirako completion fish > ~/.config/fish/completions/shirako.fish"""
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    made = found(ctx.find_root().command, {}, "shirako", "_SHIRAKO_COMPLETE")
    click.echo(made.source_template % made.source_vars())
