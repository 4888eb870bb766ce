"""Certificates: that whoever needs one has one that its peers will take."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lxml import etree

from shirako.certificates import (
    AUTHORITY,
    Certificate,
    CertificateError,
    is_vouched_for,
    read_certificates,
)
from shirako.clock import RealClock, utc
from shirako.descriptor.document import Document
from shirako.descriptor.grammar import children, describe
from shirako.descriptor.model import Fault
from shirako.descriptor.values import Address, attempt, read_address

_ACTORS = ("authority", "broker", "service-manager")


def check_tls(document: Document, *, required: bool) -> Iterator[Fault]:
    """Faults of `<tls>` and of every file behind it; of absent ones only where `required`."""
    root = document.root
    actors = [(one, attempt(read_address, one, "url")) for one in children(root, *_ACTORS)]
    peers = [attempt(read_address, one, "url") for one in children(root, "peer")]
    secured = [one for one, address in actors if address is not None and address.scheme == "https"]
    settings = children(root, "tls")
    for twin in settings[1:]:
        first = document.lines[settings[0]]
        yield document.fault(twin, f"<tls> is already there, at line {first}", "keep one of them")
    if not settings:
        for actor in secured:
            yield document.fault(
                actor,
                f"{describe(actor)} answers at https, and there are no certificates",
                f'add <tls certificates="certs"/> below <actors>, then: shirako ca init certs; '
                f"shirako ca issue certs --actors {document.path}",
            )
        return
    if not secured and not any(peer is not None and peer.scheme == "https" for peer in peers):
        unread = [one for one in (*peers, *(address for _, address in actors)) if one is None]
        if not unread:
            yield document.fault(
                settings[0], "<tls> is of no use: no url is https", "write https urls, or remove it"
            )
        return
    yield from _Check(document, settings[0], required).files(actors)


@dataclass(frozen=True, slots=True)
class _Check:
    """The files of one `<tls>`."""

    document: Document
    tls: etree._Element
    required: bool

    def files(self, actors: Sequence[tuple[etree._Element, Address | None]]) -> Iterator[Fault]:
        now = utc(RealClock().tick())
        bundle = self.tls.get("ca")
        if bundle:
            yield from self._authorities(self.document.path.parent / bundle, now, own=False)
        if not self.tls.get("certificates"):
            return
        authorities = _read_or_none(self._folder / f"{AUTHORITY}.pem")
        found = list(self._authorities(self._folder / f"{AUTHORITY}.pem", now, own=True))
        yield from found
        if found or authorities is None:
            return  # that the others are not there, or lead nowhere, is no second fault
        mutual = self.tls.get("mutual") == "true"
        for actor, address in actors:
            name = actor.get("name")
            if not name or address is None or not (mutual or address.scheme == "https"):
                continue
            if name == AUTHORITY:
                message = f"{describe(actor)}: {name}.pem is the authority's own certificate"
                yield self.document.fault(actor, message, "give the actor another name")
            else:
                yield from self._actor(actor, name, address, authorities, now)

    @property
    def _folder(self) -> Path:
        return self.document.path.parent / self.tls.get("certificates", "")

    def _authorities(self, file: Path, now: datetime, *, own: bool) -> Iterator[Fault]:
        make = f"shirako ca init {shlex.quote(str(self._folder))}"
        mend = f"make them with: {make}" if own else "name a PEM file of the authorities of peers"
        if not file.exists():
            if self.required:
                yield self.document.fault(self.tls, f"<tls>: there is no {file}", mend)
            return
        try:
            found = read_certificates(file)
        except CertificateError as error:
            yield self.document.fault(self.tls, f"<tls>: {error}", mend)
            return
        over = [one for one in found if one.ends <= now]
        if len(over) == len(found):
            yield self.document.fault(
                self.tls, f"<tls>: {file} ended {over[0].ends:%Y-%m-%d}", f"remove it; {mend}"
            )
        elif own and not all(one.is_authority for one in found):
            yield self.document.fault(self.tls, f"<tls>: {file} is no authority's", mend)

    def _actor(
        self,
        actor: etree._Element,
        name: str,
        address: Address,
        authorities: Sequence[Certificate],
        now: datetime,
    ) -> Iterator[Fault]:
        """The first thing that is wrong with an actor's certificate or key."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        folder = shlex.quote(str(self._folder))
        issue = f"shirako ca issue {folder} {name} --host {address.host}"
        absent = [file for file in (certificate, key) if not file.exists()]
        if absent:
            if self.required:
                there = [file for file in (certificate, key) if file.exists()]
                before = f"remove {there[0]}, then: " if there else "make it with: "
                message = f"{describe(actor)}: there is no {absent[0]}"
                yield self.document.fault(actor, message, before + issue)
            return
        wrong = _first_wrong(certificate, key, address, authorities, now)
        if wrong is not None:
            again = f"remove {name}.pem and {name}.key in {folder}, then: {issue}"
            yield self.document.fault(actor, f"{describe(actor)}: {wrong}", again)
        elif key.stat().st_mode & 0o077:
            message = f"{describe(actor)}: {key} can be read by others"
            yield self.document.fault(actor, message, f"chmod 600 {shlex.quote(str(key))}")


def _read_or_none(file: Path) -> tuple[Certificate, ...] | None:
    """The certificates of a file; None where there are none, which is told elsewhere."""
    try:
        return read_certificates(file)
    except CertificateError:
        return None


def _first_wrong(
    file: Path,
    key: Path,
    address: Address,
    authorities: Sequence[Certificate],
    now: datetime,
) -> str | None:
    try:
        chain = read_certificates(file)
        own = chain[0]
        fits = own.fits(key)
    except CertificateError as error:
        return str(error)
    if not fits:
        return f"{key} is not the key of {file}"
    if not is_vouched_for(chain, authorities):
        return f"{file} is not certified by the authority beside it"
    if own.ends <= now:
        return f"{file} ended {own.ends:%Y-%m-%d}"
    if own.begins > now:
        return f"{file} begins {own.begins:%Y-%m-%d %H:%M}Z only"
    if address.scheme == "https" and not own.serves(address.host):
        known = ", ".join(own.hosts) or "clients alone"
        return f"{file} is for {known}, not for {address.host}"
    return None
