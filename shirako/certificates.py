"""A small certificate authority for a site, and the TLS contexts that its certificates are for.

TLS here protects the way: who may connect, and what others can read. It says nothing about leases:
those rest on the actors' own signatures, with TLS and without. Keys are ECDSA P-256, which every
client takes; files are PEM, written once and never overwritten.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY = "ca"
"""Base name of the authority's own files: `ca.pem`, which all may read, and `ca.key`."""
BACKDATED = timedelta(minutes=5)
"""Clocks that are a little behind take a new certificate at once."""
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class CertificateError(Exception):
    """A certificate can not be made or used; the message says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says, and how it can be tried."""

    name: str
    """Its common name; empty when it has none."""
    hosts: tuple[str, ...]
    """Names and addresses that a server may show it for; empty: it is for clients alone."""
    is_authority: bool
    begins: datetime
    ends: datetime
    parsed: x509.Certificate

    def serves(self, host: str) -> bool:
        """Whether it is good for a server that is reached at `host`, a name or an address."""
        known = {one.lower() for one in self.hosts}
        try:
            return str(ipaddress.ip_address(host)) in known
        except ValueError:
            wildcard = "*." + host.partition(".")[2]
            return host.lower() in known or wildcard.lower() in known

    def fits(self, key: Path) -> bool:
        """Whether `key` is the file of its private key. Raises `CertificateError`."""
        try:
            private = load_pem_private_key(key.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise CertificateError(f"{key}: {_why(error)}") from error
        return private.public_key() == self.parsed.public_key()

    def issued_by(self, others: Sequence[Certificate]) -> Certificate | None:
        """Which of `others` signed it; None: none of them did."""
        for other in others:
            try:
                self.parsed.verify_directly_issued_by(other.parsed)
            except (InvalidSignature, ValueError, TypeError):
                continue
            return other
        return None


def read_certificates(path: Path) -> tuple[Certificate, ...]:
    """The certificates in a PEM file, at least one. Raises `CertificateError`."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
        return tuple(_read(one) for one in found)
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path}: {_why(error)}") from error


def is_vouched_for(chain: Sequence[Certificate], authorities: Sequence[Certificate]) -> bool:
    """Whether the first of `chain` leads to one of `authorities`, through the others or at once."""
    link, between = chain[0], list(chain[1:])
    while link.issued_by(authorities) is None:
        above = link.issued_by(between)
        if above is None:
            return False
        between.remove(above)
        link = above
    return True


def _read(parsed: x509.Certificate) -> Certificate:
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    hosts: tuple[str, ...] = ()
    is_authority = False
    try:
        alternatives = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = alternatives.get_values_for_type(x509.DNSName)
        hosts = (*dns, *map(str, alternatives.get_values_for_type(x509.IPAddress)))
    except x509.ExtensionNotFound:
        pass
    try:
        basics = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_authority = basics.ca
    except x509.ExtensionNotFound:
        pass
    return Certificate(
        name=str(names[0].value) if names else "",
        hosts=hosts,
        is_authority=is_authority,
        begins=parsed.not_valid_before_utc,
        ends=parsed.not_valid_after_utc,
        parsed=parsed,
    )


def make_authority(folder: Path, name: str, now: datetime, days: int) -> Path:
    """Make a new authority in `folder`; returns its certificate. Raises `CertificateError`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    certificate = (
        _builder(subject, subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write(folder, AUTHORITY, key, certificate)


def issue(folder: Path, name: str, hosts: tuple[str, ...], now: datetime, days: int) -> Path:
    """Make a key and certificate for an actor that is reached at `hosts`, names or addresses.

    It is good for both ends of a connection: actors are servers and clients of each other.
    Returns the certificate's file, `folder/NAME.pem`. Raises `CertificateError`.
    """
    if not hosts:
        raise CertificateError("name at least one host or address at which it is reached")
    alternatives = x509.SubjectAlternativeName([_host(one) for one in dict.fromkeys(hosts)])
    return _issue(folder, name, alternatives, now, days)


def issue_client(folder: Path, name: str, now: datetime, days: int) -> Path:
    """The same for who only connects, a person or a program: no server can be played with it."""
    return _issue(folder, name, None, now, days)


def _issue(
    folder: Path,
    name: str,
    alternatives: x509.SubjectAlternativeName | None,
    now: datetime,
    days: int,
) -> Path:
    if name == AUTHORITY:
        raise CertificateError(f"{name!r} is the authority's own name: choose another one")
    if not _FILE_NAME.match(name):
        raise CertificateError(
            f"{name[:80]!r} can not be a certificate's name: write at most 64 letters, digits, "
            "'.', '_' or '-', a letter or digit first"
        )
    authority, signer = _authority(folder)
    if now + timedelta(days=days) > authority.not_valid_after_utc:
        raise CertificateError(
            f"the authority's own certificate ends {authority.not_valid_after_utc:%Y-%m-%d}: "
            "ask for fewer days, or make a new authority"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        _builder(_name(name), authority.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(issuer_id, critical=False)
    )
    if alternatives is not None:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(alternatives, critical=False)
    certificate = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False).sign(
        signer, hashes.SHA256()
    )
    return _write(folder, name, key, certificate)


def server_context(certificate: Path, key: Path, clients: Path | None) -> ssl.SSLContext:
    """For whoever listens; with `clients`, only those may connect whom that authority certified.

    Raises `CertificateError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    show(context, certificate, key)
    if clients is not None:
        trust(context, clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    authority: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext:
    """For whoever connects: trusts `authority` alone, or without one the system's authorities.

    Host names are always checked. Raises `CertificateError`.
    """
    context = ssl.create_default_context()
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust(context, authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None and key is not None:
        show(context, certificate, key)
    return context


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    if days < 1:
        raise CertificateError("a certificate is good for at least one day")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise CertificateError(f"{name!r} can not be a certificate's name: {error}") from None


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text.encode("idna").decode("ascii"))
    except (ValueError, UnicodeError) as error:
        raise CertificateError(f"{text!r} is neither a host's name nor an address") from error


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{AUTHORITY}.pem").read_bytes())
        key = load_pem_private_key((folder / f"{AUTHORITY}.key").read_bytes(), password=None)
    except FileNotFoundError as error:
        raise CertificateError(
            f"there is no authority in {folder}: make one with `shirako ca init {folder}`"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(f"the authority in {folder} can not be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{folder / AUTHORITY}.key is no key that was made here")
    return certificate, key


def _write(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> Path:
    """The key first, for its owner alone; whatever is there already stays."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / f"{name}.pem"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file, mode, content in (
            (folder / f"{name}.key", 0o600, pem),
            (path, 0o644, certificate.public_bytes(Encoding.PEM)),
        ):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
    except FileExistsError as error:
        raise CertificateError(
            f"{error.filename} is there already: nothing was overwritten; remove it, or choose "
            "another name"
        ) from error
    except OSError as error:
        raise CertificateError(f"{error.filename}: {error.strerror}") from error
    return path


def show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Show this certificate at new connections. Raises `CertificateError`."""
    try:
        # without a password to give, an encrypted key fails instead of asking on the terminal
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"{certificate} with {key}: {_why(error)}") from error


def trust(context: ssl.SSLContext, authorities: Path) -> None:
    """Take also what the authorities of this file certified. Raises `CertificateError`."""
    try:
        context.load_verify_locations(authorities)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"{authorities}: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "can not be used").replace("_", " ").lower()
        return "it holds no certificate" if reason == "no certificate or crl found" else reason
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return "it is no PEM file of the right kind"
