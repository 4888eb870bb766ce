"""A connection to the directory that a mirror is in, and the few things that are done over it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import ldap3
from ldap3.core import results
from ldap3.core.exceptions import LDAPException

from shirako.ledger.mirror.place import MirrorPlace

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10
"""Whole seconds: ldap3 takes no others."""
PAGE = 500
"""Entries that a search asks for at once; many servers give no more."""

_PAGED_RESULTS = "1.2.840.113556.1.4.319"

Values = Mapping[str, bytes]
"""One value for each attribute: none of ours has more."""


class MirrorUnreachable(Exception):
    """The directory does not answer, or refuses: what the mirror wants to do has to wait."""


class HeadChanged(Exception):
    """The head of the mirror is not what it was when it was read: somebody else writes there."""


class Directory:
    """A bound connection, new each time, so that none is ever stale.

    All methods raise `MirrorUnreachable`, and may be called by one thread alone but for `cut`.
    """

    def __init__(self, place: MirrorPlace) -> None:
        self._place = place
        self._socket: socket.socket | None = None
        self._connection: ldap3.Connection | None = None

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()

    def cut(self) -> None:
        """End whatever waits for an answer, in whichever thread."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    # Entries ----------------------------------------------------------------------------------

    def read(self, dn: str, *names: str) -> dict[str, bytes] | None:
        """The attributes `names` of an entry; None where there is none."""
        accept = (results.RESULT_NO_SUCH_OBJECT,)
        code, found, _ = self._ask(
            f"read {dn}", "search", dn, "(objectClass=*)", ldap3.BASE, attributes=names, ok=accept
        )
        entries = list(_entries(found))
        return entries[0] if code == results.RESULT_SUCCESS and entries else None

    def below(self, dn: str, *names: str) -> Iterator[dict[str, bytes]]:
        """The attributes `names` of each entry right below another; nothing if that is not there.

        Nothing else may be asked before it ends.
        """
        cookie: bytes | None = None
        while True:
            code, found, controls = self._ask(
                f"list {dn}",
                "search",
                dn,
                "(objectClass=*)",
                ldap3.LEVEL,
                attributes=names,
                paged_size=PAGE,
                paged_cookie=cookie,
                ok=(results.RESULT_NO_SUCH_OBJECT,),
            )
            if code == results.RESULT_NO_SUCH_OBJECT:
                return
            yield from _entries(found)
            cookie = controls.get(_PAGED_RESULTS, {}).get("value", {}).get("cookie")
            if not cookie:
                return

    def add(self, dn: str, kind: str, values: Values) -> bool:
        """Make an entry of class `kind`; False when it is there already, and left as it is."""
        ok = (results.RESULT_ENTRY_ALREADY_EXISTS,)
        code, _, _ = self._ask(f"add {dn}", "add", dn, [kind], dict(values), ok=ok)
        return code == results.RESULT_SUCCESS

    def put(self, dn: str, kind: str, values: Values) -> None:
        """Make an entry, or give it these values."""
        changes = {name: [(ldap3.MODIFY_REPLACE, [value])] for name, value in values.items()}
        ok = (results.RESULT_NO_SUCH_OBJECT,)
        code, _, _ = self._ask(f"change {dn}", "modify", dn, changes, ok=ok)
        if code == results.RESULT_NO_SUCH_OBJECT:
            self._ask(f"add {dn}", "add", dn, [kind], dict(values))

    def swap(self, dn: str, name: str, old: bytes, new: bytes) -> None:
        """Replace a value if it is the one that is expected; raises `HeadChanged` otherwise."""
        changes = {name: [(ldap3.MODIFY_DELETE, [old]), (ldap3.MODIFY_ADD, [new])]}
        ok = (results.RESULT_NO_SUCH_ATTRIBUTE, results.RESULT_NO_SUCH_OBJECT)
        code, _, _ = self._ask(f"change {dn}", "modify", dn, changes, ok=ok)
        if code != results.RESULT_SUCCESS:
            raise HeadChanged(f"{self._place}: somebody else writes to {dn}")

    def remove(self, dn: str) -> None:
        self._ask(f"remove {dn}", "delete", dn, ok=(results.RESULT_NO_SUCH_OBJECT,))

    # Connecting -------------------------------------------------------------------------------

    def _open(self) -> None:
        place = self._place
        try:
            password = place.password_file.read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise MirrorUnreachable(f"{place.password_file} can not be read: {error}") from error
        try:
            server = ldap3.Server(
                place.url,
                get_info=ldap3.NONE,
                connect_timeout=CONNECT_SECONDS,
                tls=ldap3.Tls(
                    validate=ssl.CERT_REQUIRED,
                    ca_certs_file=None if place.ca is None else str(place.ca),
                ),
            )
            self._connection = ldap3.Connection(
                server,
                place.user,
                password,
                client_strategy=ldap3.SAFE_SYNC,
                receive_timeout=ANSWER_SECONDS,
                auto_referrals=False,
            )
            self._connection.open()
            self._socket = self._connection.socket
            if place.start_tls:
                self._connection.start_tls()
                self._socket = self._connection.socket
        except (LDAPException, OSError) as error:
            raise MirrorUnreachable(f"{place.url}: {error}") from error
        self._ask(f"take {place.user}", "bind")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # What was the matter was raised before; a broken connection cannot even say goodbye.
        with contextlib.suppress(LDAPException, OSError):
            connection.unbind()
        # One whose opening failed half-way counts as closed, and keeps its socket.
        if connection.socket is not None:
            connection.socket.close()

    def _ask(
        self, what: str, operation: str, *arguments: Any, ok: Sequence[int] = (), **named: Any
    ) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
        """Result code, entries and controls; raises unless it is success or one of `ok`."""
        if self._connection is None:
            raise MirrorUnreachable(f"{self._place.url}: not connected")
        try:
            _, result, found, _ = getattr(self._connection, operation)(*arguments, **named)
        except (LDAPException, OSError) as error:
            raise MirrorUnreachable(f"{self._place.url}: {error}") from error
        code = result["result"]
        if code != results.RESULT_SUCCESS and code not in ok:
            why = f"{result['description']} {result['message']}".strip()
            raise MirrorUnreachable(f"{self._place.url} refuses to {what}: {why}")
        return code, found or [], result.get("controls") or {}


def _entries(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, bytes]]:
    for one in found:
        if one["type"] == "searchResEntry":
            raw = one["raw_attributes"]
            yield {name: values[0] for name, values in raw.items() if values}
