"""Attribute values as Python values.

Of durations, instants and addresses the schema knows nothing, so that their faults are found here;
numbers it has checked, and they are read with the same bounds where a check needs them before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from lxml import etree

from shirako.core.durations import format_duration, parse_duration
from shirako.descriptor.document import Document
from shirako.descriptor.grammar import Grammar, describe, local_name
from shirako.descriptor.model import Fault

T = TypeVar("T")
_DAY = 86_400
_SIZE = re.compile(r"([0-9]{1,7})(MiB|GiB)")
_UNITS = {"MiB": 1024**2, "GiB": 1024**3}
LEDGER_SERVERS = ("postgresql://", "postgres://")
_PASSWORD = re.compile(r"//.*@|\?.*", re.DOTALL)
"""Where a URL may hold one: before its host, and among its parameters."""


class Unreadable(ValueError):
    """What the value "is" or "has"; `mend` where the schema's wording would not help."""

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Address:
    """Where an actor answers. `host` is lower-case, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def socket(self) -> tuple[str, int]:
        """Equal for addresses that cannot both be listened on."""
        return ("127.0.0.1" if self.host == "localhost" else self.host, self.port)


def read_instant(text: str) -> datetime:
    """A point in time as UTC, to the second. Raises `Unreadable`."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Unreadable("is not a point in time") from None
    if moment.tzinfo is None:
        raise Unreadable(
            "needs a time zone",
            "write it as 2026-01-01T00:00:00Z, or end it with an offset such as +02:00",
        )
    if moment.microsecond:
        raise Unreadable("has a part of a second", "leave the fraction of the second away")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise Unreadable("is out of range") from None


def read_address(text: str) -> Address:
    """The address in a URL of scheme, host and port. Raises `Unreadable`."""
    try:
        parts = urlsplit(text)
        port = parts.port
        # urlsplit drops tabs and line ends, and would so read what nobody else reads.
        clean = text.isascii() and text.isprintable() and " " not in text
    except ValueError as error:
        raise Unreadable(f"is not a URL ({error})") from None
    if not clean or parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unreadable("is not an http or https URL")
    if not port:
        raise Unreadable("has no port", f"write {parts.scheme}://{parts.hostname}:7701")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Unreadable("holds more than scheme, host and port")
    address = Address(parts.scheme, parts.hostname, port)
    if address.host in ("0.0.0.0", "::"):  # noqa: S104 -- refused, not bound
        raise Unreadable("is no address to be reached at", "write the address that peers use")
    # Signed envelopes do not hide what they hold, and API requests carry bearer tokens.
    if address.scheme == "http" and not address.is_loopback:
        raise Unreadable(
            "would send bearer tokens in the clear",
            "use https, or http on 127.0.0.1, [::1] or localhost",
        )
    return address


def read_factor(text: str) -> float:
    """An overbooking factor, from 1 to 100. Raises `ValueError`."""
    factor = float(text)
    if not 1 <= factor <= 100:
        raise Unreadable("is out of range")
    return factor


def read_count(text: str) -> int:
    """A number of units, from 1 to 100000. Raises `ValueError`."""
    count = int(text)
    if not 1 <= count <= 100_000:
        raise Unreadable("is out of range")
    return count


def _duration_within(shortest: int, longest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            seconds = parse_duration(text)
        except ValueError:
            raise Unreadable("is not a duration") from None
        if seconds < shortest:
            raise Unreadable(f"is shorter than {format_duration(shortest)}")
        if seconds > longest:
            raise Unreadable(f"is longer than {format_duration(longest)}")
        return seconds

    return read


# The bounds are told to people in the schema, in the documentation of these types.
read_skew = _duration_within(1, 3_600)
read_timeout = _duration_within(1, _DAY)
read_term = _duration_within(1, 3_650 * _DAY)

read_idle = _duration_within(30, _DAY)

_interval = _duration_within(1, _DAY)


def read_interval(text: str) -> int:
    """Seconds between two times that something is done; 0 for `off`. Raises `Unreadable`."""
    return 0 if text.strip() in ("off", "0", "0s") else _interval(text)


def read_size(text: str) -> int:
    """Bytes, from 2 MiB to 1024 GiB. Raises `Unreadable`."""
    parts = _SIZE.fullmatch(text.strip())
    if parts is None:
        raise Unreadable("is not a size")
    size = int(parts[1]) * _UNITS[parts[2]]
    if not 2 * _UNITS["MiB"] <= size <= 1024 * _UNITS["GiB"]:
        raise Unreadable("is out of range")
    return size


def read_ledger(text: str) -> str:
    """The URL of a database, without a password in it. Raises `Unreadable`."""
    mend = "write postgresql://USER@HOST/DATABASE"
    if not text.startswith(LEDGER_SERVERS):
        raise Unreadable("is no PostgreSQL database", mend)
    try:
        address = urlsplit(text)
        secret, _port = address.password, address.port
    except ValueError:
        raise Unreadable("is no URL", mend) from None
    if secret is not None or "password" in parse_qs(address.query):
        raise Unreadable("holds a password", f"{mend}?passfile=FILE, which only you can read")
    if not address.path.strip("/"):
        raise Unreadable("names no database", mend)
    return text


def read_directory(text: str) -> str:
    """The URL of a directory: scheme, host and perhaps a port. Raises `Unreadable`."""
    try:
        parts = urlsplit(text)
        port = parts.port
        clean = text.isascii() and text.isprintable() and " " not in text
    except ValueError as error:
        raise Unreadable(f"is not a URL ({error})") from None
    if not clean or parts.scheme not in ("ldap", "ldaps") or not parts.hostname or port == 0:
        raise Unreadable("is not an ldap or ldaps URL")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Unreadable("holds more than scheme, host and port")
    return text


def read_dn(text: str) -> str:
    """The name of an entry in a directory. Raises `Unreadable`."""
    # only who has a directory needs the library, which takes a while to import
    from ldap3.core.exceptions import LDAPInvalidDnError
    from ldap3.utils.dn import parse_dn

    try:
        if parse_dn(text):
            return text
    except LDAPInvalidDnError:
        pass
    raise Unreadable("is not the name of an entry")


_READERS: dict[str, Callable[[str], object]] = {
    "skew": read_skew,
    "ledger": read_ledger,
    "directory": read_directory,
    "dn": read_dn,
    "timeout": read_timeout,
    "interval": read_interval,
    "idle": read_idle,
    "size": read_size,
    "term": read_term,
    "instant": read_instant,
    "url": read_address,
}


def check_values(document: Document, grammar: Grammar) -> Iterator[Fault]:
    """A fault for each attribute value that is text to the schema and nonsense to us."""
    for element in document.root.iter():
        for name, attribute in grammar.forms[local_name(element)].attributes.items():
            text = element.get(name)
            reader = _READERS.get(attribute.type)
            if text is None or reader is None:
                continue
            try:
                reader(text)
            except Unreadable as error:
                mend = error.mend or f"write {grammar.wording[attribute.type]}"
                shown = _PASSWORD.sub(lambda m: "//...@" if m[0][0] == "/" else "?...", text)[:60]
                message = f"{describe(element)}: {name} {shown!r} {error}"
                yield document.fault(element, message, mend)


def attempt(read: Callable[[str], T], element: etree._Element, name: str) -> T | None:
    """The value, or `None` where it is absent or bad (which is a fault told elsewhere)."""
    text = element.get(name)
    try:
        return None if text is None else read(text)
    except ValueError:
        return None
