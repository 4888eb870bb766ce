"""`shirako verify`: what signed statements and audit records prove, offline.

A ticket names its own root of trust, the site's key; `--key` says which sites' keys you trust.
Leases and receipts are held to the key of the ticket beside them, or to one given with `--key`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output
from shirako.clock import utc

if TYPE_CHECKING:
    from shirako.trust import PublicKey

FILE_BYTES_MAX = 16 * 1024 * 1024
_SQLITE = b"SQLite format 3\0"
_GOOD, _BAD, _UNREADABLE = 0, 1, 2


class Unreadable(Exception):
    """There is nothing in it that could be verified, or not by what was given."""


@click.command(
    epilog="""\b
Examples:
  shirako lease proofs ID > lease.json && shirako verify lease.json
  shirako verify receipt.jwt --key site.pub.jwk
  shirako verify run/state/site.sqlite"""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key of a site that you trust, NAME.pub.jwk; repeat.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def verify(file: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Verify FILE: a ticket, lease or receipt, or an actor's ledger with its audit record.

    Exit status: 0 it holds, 1 it does not, 2 it can not be read.
    """
    from shirako.core.claims import Unfit
    from shirako.ledger import LedgerError
    from shirako.trust import Untrusted

    statements: list[dict[str, Any]] = []
    problem, status = "", _GOOD
    try:
        statements.extend(_statements(file, keys))
    except (Untrusted, Unfit, LedgerError) as error:
        problem, status = str(error), _BAD
    except Unreadable as error:
        problem, status = str(error), _UNREADABLE
    if as_json:
        told = {"good": status == _GOOD, "problem": problem, "statements": statements}
        click.echo(json.dumps(told, indent=2))
    else:
        for statement in statements:
            click.echo(output.plain(statement["says"]))
        click.echo("good" if status == _GOOD else f"BAD: {output.plain(problem)}")
    raise click.exceptions.Exit(status)


def _statements(file: Path, keys: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    """What the file says, each thing once it is verified."""
    with file.open("rb") as opened:
        start = opened.read(len(_SQLITE))
    if start == _SQLITE:
        yield _audit_record(file)
        return
    if file.stat().st_size > FILE_BYTES_MAX:
        raise Unreadable(f"{file} is larger than {FILE_BYTES_MAX} bytes")
    yield from _Tokens(_trusted(keys)).read(_parsed(file))


def _trusted(keys: tuple[Path, ...]) -> dict[str, PublicKey]:
    from shirako.trust import Untrusted, read_public

    try:
        found = [read_public(key) for key in keys]
    except (Untrusted, OSError) as error:
        raise Unreadable(str(error)) from None
    return {key.kid: key for key in found}


def _parsed(file: Path) -> Any:
    """JSON, or one bare token."""
    try:
        text = file.read_text("ascii").strip()
    except UnicodeDecodeError:
        raise Unreadable(f"{file} is neither JSON nor a token nor a ledger") from None
    if text[:1] not in ("{", "[", '"'):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{file} is no JSON: {error}") from None


class _Tokens:
    """Reads tickets, leases and receipts; a ticket's site vouches for what comes with it."""

    def __init__(self, trusted: Mapping[str, PublicKey]) -> None:
        from shirako.trust import Verifier

        self._verifier = Verifier()
        self._pinned = bool(trusted)
        self._sites = dict(trusted)

    def read(self, told: Any) -> Iterator[dict[str, Any]]:
        match told:
            case str():
                yield self._token(told)
            case [str(), *_] if all(isinstance(token, str) for token in told):
                yield from self._chain(tuple(told))
            case [list(), *_]:
                for chain in told:
                    yield from self.read(chain)
            case {"ticket": _} | {"lease": _} | {"receipt": _}:
                for name in ("ticket", "lease", "receipt"):
                    if told.get(name):
                        yield from self.read(told[name])
            case _:
                raise Unreadable("it is neither a ticket nor a lease nor a receipt")

    def _chain(self, tokens: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        from shirako.core.claims import check_chain
        from shirako.trust import Untrusted

        claims = self._verifier.chain(tokens)
        site = claims[0].site
        check_chain(claims, claims[0].issuer)
        if site is None or (self._pinned and site.kid not in self._sites):
            raise Untrusted(f"the ticket starts at {claims[0].issuer}, which no --key names")
        self._sites.setdefault(site.kid, self._verifier.key(site.x))
        for number, claim in enumerate(claims):
            issuer = site.name if number == 0 else claims[number - 1].holder.name
            says = (
                f"claim {claim.jti}: {issuer or claim.issuer} gives "
                f"{claim.holder.name or claim.holder.kid} {claim.units} x {claim.type}, "
                f"{_term(claim.term.start, claim.term.end)}"
            )
            if claim.reservation:
                says += f", for lease {claim.reservation}"
            yield {
                "kind": "claim",
                "jti": claim.jti,
                "issuer": claim.issuer,
                "holder": claim.holder.kid,
                "says": says,
            }
        trust = "which you trust" if self._pinned else "as the ticket itself states: compare it"
        yield {"kind": "root", "kid": site.kid, "says": f"rooted at {site.kid}, {trust}"}

    def _token(self, token: str) -> dict[str, Any]:
        from shirako.trust import LEASE_TYPE, RECEIPT_TYPE, Untrusted, header

        try:
            stated = header(token)
        except Untrusted as error:
            raise Unreadable(str(error)) from None
        issuer = self._sites.get(str(stated.get("kid")))
        if stated.get("typ") not in (LEASE_TYPE, RECEIPT_TYPE):
            raise Unreadable(f"a {stated.get('typ')!r} can not be verified by itself")
        if issuer is None:
            if self._sites:
                raise Untrusted(f"it is signed by {stated.get('kid')}, which is not the site")
            raise Unreadable("give the public key of the site with --key, or the ticket beside it")
        if stated["typ"] == LEASE_TYPE:
            return self._lease(token, issuer)
        return self._receipt(token, issuer)

    def _lease(self, token: str, issuer: PublicKey) -> dict[str, Any]:
        lease = self._verifier.lease(token, issuer)
        says = (
            f"lease {lease.reservation}: {', '.join(lease.units)} ({lease.type}), "
            f"{_term(lease.term.start, lease.term.end)}, for {lease.holder}"
        )
        return {"kind": "lease", "jti": lease.jti, "holder": lease.holder, "says": says}

    def _receipt(self, token: str, issuer: PublicKey) -> dict[str, Any]:
        receipt = self._verifier.receipt(token, issuer)
        used = "torn down" if receipt.redeemed else "never redeemed and void"
        says = (
            f"receipt for lease {receipt.reservation}: {used}, {receipt.units_freed} units freed "
            f"at {output.short(utc(receipt.tick))}"
        )
        if receipt.checks:
            says += f"; verified: {', '.join(receipt.checks)}"
        if receipt.failed_units:
            says += f"; NOT freed: {', '.join(receipt.failed_units)}"
        return {"kind": "receipt", "jti": receipt.jti, "holder": receipt.holder, "says": says}


def _term(start: int, end: int) -> str:
    return f"{output.short(utc(start))} to {output.short(utc(end))}"


def _audit_record(file: Path) -> dict[str, Any]:
    """The audit record of a ledger, also of one in use: it is opened for reading alone."""
    from shirako.ledger import Link, decode_entries, verify_links

    entries, head = 0, ""

    def links(database: sqlite3.Connection) -> Iterator[Link]:
        nonlocal entries, head
        for number, body, link_hash in database.execute(
            "SELECT number, body, hash FROM log ORDER BY number"
        ):
            # whoever changed a body may have changed its type as well
            raw = body if isinstance(body, bytes) else str(body).encode()
            link = Link(number, raw, link_hash)
            yield link
            entries, head = entries + len(decode_entries(link.body)), link.hash

    try:
        database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        try:
            count = verify_links(links(database))
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        raise Unreadable(f"{file} is no ledger that can be read: {error}") from None
    says = f"audit record: {count} commits with {entries} entries, head {head or 'none'}"
    return {"kind": "audit", "commits": count, "entries": entries, "head": head, "says": says}
