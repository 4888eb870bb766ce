"""`shirako ca`: a small certificate authority in a folder, for TLS between a site's actors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from shirako.cli import output
from shirako.cli.actors import read
from shirako.clock import RealClock, utc

if TYPE_CHECKING:
    from shirako.certificates import Certificate

AUTHORITY_DAYS = 3650
DAYS = 365
DAYS_MAX = 36_500

_FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


def _now() -> datetime:
    return utc(RealClock().tick())


@click.group()
def ca() -> None:
    """Certificates for TLS: a small authority for a site.

    The folder is what `<tls certificates="FOLDER"/>` names. `ca.pem` is for everybody; `ca.key`
    makes certificates, and need not be on a machine that runs actors.
    """


@ca.command(epilog="\b\nExample:\n  shirako ca init certs --name 'Example Lab'")
@_FOLDER
@click.option("--name", default="shirako", show_default=True, help="What the authority is called.")
@click.option("--days", default=AUTHORITY_DAYS, show_default=True, type=click.IntRange(1, DAYS_MAX))
def init(folder: Path, name: str, days: int) -> None:
    """Make a new authority in FOLDER. Never overwrites one."""
    from shirako.certificates import CertificateError, make_authority

    try:
        made = make_authority(folder, name, _now(), days)
    except CertificateError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"made  {made}; keep {made.with_suffix('.key')} to yourself")


@ca.command(
    epilog="""\b
Examples:
  shirako ca issue certs --actors actors.xml                # each actor that lacks one
  shirako ca issue certs site --host site.example.org --host 192.0.2.7
  shirako ca issue certs ann --client                       # for a person or a program"""
)
@_FOLDER
@click.argument("name", required=False)
@click.option(
    "--host", "hosts", multiple=True, help="Where it is reached, name or address; repeat."
)
@click.option("--client", is_flag=True, help="For who only connects: good for no server.")
@click.option(
    "--actors",
    "descriptor",
    type=click.Path(dir_okay=False, path_type=Path),
    help="One for each actor of this descriptor, for the host of its url.",
)
@click.option("--days", default=DAYS, show_default=True, type=click.IntRange(1, DAYS_MAX))
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def issue(
    folder: Path,
    name: str | None,
    hosts: tuple[str, ...],
    client: bool,
    descriptor: Path | None,
    days: int,
    as_json: bool,
) -> None:
    """Make keys and certificates that the authority in FOLDER vouches for. Never overwrites one."""
    if (name is None) == (descriptor is None):
        raise click.UsageError("say for whom: NAME, or --actors DESCRIPTOR")
    if descriptor is not None and (hosts or client):
        raise click.UsageError("--actors says it all: leave --host and --client away")
    if name is not None and bool(hosts) == client:
        raise click.UsageError("say what for: --host where it is reached, or --client")
    wanted = [(name or "", hosts)] if descriptor is None else list(_wanted(descriptor))
    told = [_made(folder, one, at, days, keep=descriptor is not None) for one, at in wanted]
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for one in told:
        click.echo(f"{'made' if one['made'] else 'kept'}  {one['name']}  {one['certificate']}")


def _wanted(descriptor: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for actor in read(descriptor, keys=False).actors:
        yield actor.name, (urlsplit(actor.url).hostname or "",)


def _made(
    folder: Path, name: str, hosts: tuple[str, ...], days: int, *, keep: bool
) -> dict[str, Any]:
    """Makes one certificate, unless it is there and to be kept."""
    from shirako import certificates

    path = folder / f"{name}.pem"
    made = not (keep and path.exists())
    try:
        if made and hosts:
            path = certificates.issue(folder, name, hosts, _now(), days)
        elif made:
            path = certificates.issue_client(folder, name, _now(), days)
    except certificates.CertificateError as error:
        raise click.ClickException(str(error)) from None
    return {"name": name, "certificate": str(path), "made": made}


@ca.command(epilog="\b\nExample:\n  shirako ca show certs --json")
@_FOLDER
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def show(folder: Path, as_json: bool) -> None:
    """List the certificates in FOLDER: whose, for which hosts, until when."""
    from shirako.certificates import CertificateError, read_certificates

    if not folder.is_dir():
        raise click.ClickException(f"there is no folder {folder}")
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.pem")):
        try:
            rows.append(_row(path, read_certificates(path)[0]))
        except CertificateError as error:
            rows.append({"file": path.name, "fault": str(error)})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    lines = [
        (
            row["file"],
            row.get("name", ""),
            row.get("kind", row.get("fault")),
            ", ".join(row.get("hosts", ())),
            row.get("until", ""),
            f"{row['days']} days" if row.get("days", -1) >= 0 else "over" if "days" in row else "",
        )
        for row in rows
    ]
    output.table(("FILE", "NAME", "KIND", "HOSTS", "UNTIL", "LEFT"), lines)


def _row(path: Path, certificate: Certificate) -> dict[str, Any]:
    server = "server" if certificate.hosts else "client"
    return {
        "file": path.name,
        "name": certificate.name,
        "kind": "authority" if certificate.is_authority else server,
        "hosts": list(certificate.hosts),
        "until": certificate.ends.isoformat().replace("+00:00", "Z"),
        "days": (certificate.ends - _now()).days,
    }
