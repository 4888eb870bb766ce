"""`shirako verify`: what signed statements and audit records prove, offline.

What is verified, and how, is in `shirako.verifying`; here files are read and facts are told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output

if TYPE_CHECKING:
    from shirako.trust import PublicKey

FILE_BYTES_MAX = 16 * 1024 * 1024
_GOOD, _BAD, _UNREADABLE = 0, 1, 2


@click.command(
    epilog="""\b
Examples:
  shirako lease proofs ID > lease.json && shirako verify lease.json
  shirako verify receipt.jwt --key site.pub.jwk
  shirako verify conflict.json
  shirako verify run/state/site.sqlite
  shirako verify run/state/site.sqlite --head 3f9c...  (as an earlier run told it)"""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key of a site that you trust, NAME.pub.jwk; repeat.",
)
@click.option("--head", default="", help="A head of the audit record that you noted earlier.")
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def verify(file: Path, keys: tuple[Path, ...], head: str, as_json: bool) -> None:
    """Verify FILE: a ticket, lease, receipt, revocation, conflict proof or envelope, or an actor's
    ledger with its audit record.

    A ticket or proof states its site's key itself; say with --key which sites you trust.

    Exit status: 0 it holds, 1 it does not, 2 it can not be read.
    """
    from shirako.verifying import Refuted, Unreadable

    told: list[dict[str, Any]] = []
    problem, where, status = "", "", _GOOD
    try:
        told.extend(_lines(file, keys, head))
    except Refuted as error:
        problem, where, status = error.why, error.where, _BAD
    except Unreadable as error:
        problem, status = str(error), _UNREADABLE
    if as_json:
        good = status == _GOOD
        click.echo(
            json.dumps(
                {"good": good, "problem": problem, "where": where, "statements": told}, indent=2
            )
        )
    else:
        for line in told:
            click.echo("  " * int(line.get("depth", 0)) + output.plain(line["says"]))
        place = f"{output.plain(where)}: " if where else ""
        click.echo("good" if status == _GOOD else f"BAD: {place}{output.plain(problem)}")
    raise click.exceptions.Exit(status)


def _lines(file: Path, keys: tuple[Path, ...], head: str) -> Iterator[dict[str, Any]]:
    """What the file says, each thing once it is verified."""
    from shirako.cli import explaining
    from shirako.verifying import Unreadable
    from shirako.verifying.audit import SQLITE, read_audit
    from shirako.verifying.statements import parse
    from shirako.verifying.statements import verify as verified

    with file.open("rb") as opened:
        start = opened.read(len(SQLITE))
    if start == SQLITE:
        yield explaining.audit(read_audit(file, head))
        return
    if head:
        raise Unreadable(f"{file} is no ledger: --head is of audit records")
    if file.stat().st_size > FILE_BYTES_MAX:
        raise Unreadable(f"{file} is larger than {FILE_BYTES_MAX} bytes")
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{file} is neither JSON nor a token nor a ledger") from None
    for fact in verified(parse(text), _trusted(keys)):
        yield from explaining.lines(fact)


def _trusted(keys: tuple[Path, ...]) -> dict[str, PublicKey]:
    from shirako.trust import Untrusted, read_public
    from shirako.verifying import Unreadable

    try:
        found = [read_public(key) for key in keys]
    except (Untrusted, OSError) as error:
        raise Unreadable(str(error)) from None
    return {key.kid: key for key in found}
