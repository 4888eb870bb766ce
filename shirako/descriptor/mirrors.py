"""`<mirror/>`: the directory that an actor's ledger is mirrored in."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from lxml import etree

from shirako.certificates import CertificateError, read_certificates
from shirako.descriptor.document import Document
from shirako.descriptor.grammar import children, describe, value_of
from shirako.descriptor.model import Fault
from shirako.descriptor.values import Address, attempt, read_directory
from shirako.ledger.mirror.place import MirrorPlace

_ACTORS = ("authority", "broker", "service-manager")


def check_mirrors(document: Document, *, required: bool) -> Iterator[Fault]:
    """At most one for each actor, and that it keeps its password; files only where `required`."""
    for actor in children(document.root, *_ACTORS):
        found = children(actor, "mirror")
        for twin in found[1:]:
            line = document.lines[found[0]]
            message = f"<mirror> of {describe(actor)} is already there, at line {line}"
            yield document.fault(twin, message, "keep one of them")
        for mirror in found[:1]:
            yield from _transport(document, mirror)
            if required:
                yield from _password(document, mirror)
                yield from _authority(document, mirror)


def build_mirror(
    actor: etree._Element, folder: Path, text: Callable[[etree._Element, str], str]
) -> MirrorPlace | None:
    """Where the actor has its mirror; `text` gives an attribute, or its default in the schema."""
    found = children(actor, "mirror")
    if not found:
        return None
    (one,) = found
    ca = one.get("ca")
    return MirrorPlace(
        url=value_of(one, "url"),
        base=value_of(one, "base"),
        user=value_of(one, "user"),
        password_file=folder / value_of(one, "password-file"),
        start_tls=text(one, "start-tls") == "true",
        ca=None if ca is None else folder / ca,
    )


def _transport(document: Document, mirror: etree._Element) -> Iterator[Fault]:
    url = attempt(read_directory, mirror, "url")
    if url is None:
        return
    parts, start_tls = urlsplit(url), mirror.get("start-tls") == "true"
    near = Address(parts.scheme, parts.hostname or "", parts.port or 0).is_loopback
    if parts.scheme == "ldaps" and start_tls:
        yield document.fault(
            mirror, "<mirror>: start-tls is of no use with ldaps", "remove it, or write ldap://..."
        )
    elif parts.scheme == "ldap" and not start_tls and not near:
        yield document.fault(
            mirror,
            f"<mirror>: {url} would send its password and the ledger in the clear",
            'use ldaps, add start-tls="true", or name a directory on this machine',
        )


def _password(document: Document, mirror: etree._Element) -> Iterator[Fault]:
    named = mirror.get("password-file")
    if not named:
        return
    file = document.path.parent / named
    mend = "write the password of the user into it, readable by you alone"
    try:
        mode, text = file.stat().st_mode, file.read_text("utf-8")
    except FileNotFoundError:
        yield document.fault(mirror, f"<mirror>: there is no password file {file}", mend)
        return
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        yield document.fault(mirror, f"<mirror>: password file {file}: {reason}", mend)
        return
    if not text.strip():
        yield document.fault(mirror, f"<mirror>: password file {file} is empty", mend)
    elif mode & 0o077:
        message = f"<mirror>: password file {file} can be read by others"
        yield document.fault(mirror, message, f"chmod 600 {shlex.quote(str(file))}")


def _authority(document: Document, mirror: etree._Element) -> Iterator[Fault]:
    named = mirror.get("ca")
    if not named:
        return
    try:
        read_certificates(document.path.parent / named)
    except CertificateError as error:
        mend = "name a PEM file of the authority that the directory's certificate is from"
        yield document.fault(mirror, f"<mirror>: {error}", mend)
