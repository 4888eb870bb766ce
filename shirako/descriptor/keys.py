"""Key files: the actors' private keys, the peers' public ones, the guests' SSH public keys."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from lxml import etree

from shirako.descriptor.document import Document
from shirako.descriptor.grammar import children, describe
from shirako.descriptor.model import Fault
from shirako.lineage import HEADER
from shirako.trust import PublicKey, Untrusted, lineage_in

_MAX_BYTES = 64 * 1024
_SSH_PUBLIC = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}(\s|$)")


def check_keys(document: Document, *, required: bool) -> Iterator[Fault]:
    """Faults of every key file; of absent ones only where keys are `required`."""
    root = document.root
    owners: dict[str, etree._Element] = {}
    for actor in children(root, "authority", "broker", "service-manager", "peer"):
        for key in _key(document, actor, required=required):
            if isinstance(key, Fault):
                yield key
                continue
            others = {owners.setdefault(one, actor): None for one in key.thumbprints}
            for other in others:
                if other is not actor:
                    yield document.fault(
                        actor,
                        f"{describe(actor)} has the same key as {describe(other)}, at line "
                        f"{document.lines[other]}",
                        "give each actor a key file of its own",
                    )
    for element in root.iter("{*}ssh-key"):
        yield from _ssh_key(document, element, required=required)


class _Key(NamedTuple):
    """A key file that can be used."""

    is_private: bool
    thumbprints: tuple[str, ...]
    """Of all keys that its actor has had, the first one first."""


def _key(document: Document, actor: etree._Element, *, required: bool) -> Iterator[Fault | _Key]:
    """The faults of one actor's key file, or the key."""
    named = actor.get("key")
    if not named:
        return
    file = document.path.parent / named
    public = etree.QName(actor).localname == "peer"
    make = f"make it with: shirako keys {document.path}"
    mend = "copy the public half, NAME.pub.jwk, from where the peer runs" if public else make
    again = mend if public else f"delete it and {make}"
    opened = _open(file)
    if opened is None:
        if required:
            yield document.fault(actor, f"{describe(actor)}: there is no key file {file}", mend)
        return
    if isinstance(opened, OSError):
        reason = opened.strerror or str(opened)
        yield document.fault(actor, f"{describe(actor)}: key file {file}: {reason}", again)
        return
    key = _read_jwk(opened.text)
    if isinstance(key, str):
        yield document.fault(actor, f"{describe(actor)}: key file {file} {key}", again)
    elif public and key.is_private:
        yield document.fault(
            actor,
            f"{describe(actor)}: key file {file} holds the peer's private key",
            f"{mend}; the private half must not leave it",
        )
    elif not public and not key.is_private:
        yield document.fault(
            actor,
            f"{describe(actor)}: key file {file} holds a public key alone",
            f"name the private one, or {make}",
        )
    else:
        if not public and opened.mode & 0o077:
            yield document.fault(
                actor,
                f"{describe(actor)}: key file {file} can be read by others",
                f"chmod 600 {file}",
            )
        yield key


class _Opened(NamedTuple):
    text: str
    mode: int


def _open(file: Path) -> _Opened | OSError | None:
    """The beginning of a file, enough for any key; `None` where there is none."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            return _Opened(opened.read(_MAX_BYTES).decode("utf-8", "replace"), mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error


def _read_jwk(text: str) -> _Key | str:
    """The key, or the end of the sentence "key file X ..."."""
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return "is not a JWK: it is not JSON"
    if not isinstance(members, dict) or "kty" not in members:
        return "is not a JWK: it has no 'kty'"
    stated = members.pop(HEADER, None)
    if members["kty"] != "OKP" or members.get("crv") != "Ed25519":
        return "is of the wrong kind: not OKP with curve Ed25519"
    try:
        key = OKPKey.import_key(members)
        if key.is_private and key.private_key is not None:
            honest = OKPKey.import_key(key.private_key).as_dict(private=False)
            if honest.get("x") != members.get("x"):
                return "is broken: its 'x' does not belong to its 'd'"
    except (JoseError, ValueError, TypeError, KeyError):
        return "is not a JWK: 'x' or 'd' is no Ed25519 key"
    try:
        lineage = None if stated is None else lineage_in(stated)
    except Untrusted as error:
        return f"is broken: {error}"
    if lineage is None:
        return _Key(key.is_private, (key.thumbprint(),))
    if members.get("x") != (lineage.key if key.is_private else lineage.x):
        return "is broken: its lineage is that of another key"
    keys = (lineage.x, *(step.x for step in lineage.successions))
    return _Key(key.is_private, tuple(PublicKey(x).kid for x in keys))


def _ssh_key(document: Document, element: etree._Element, *, required: bool) -> Iterator[Fault]:
    named = element.get("file")
    if not named:
        return
    file = document.path.parent / named
    opened = _open(file)
    mend = "name the public half, as made by: ssh-keygen -t ed25519"
    if opened is None:
        if required:
            yield document.fault(element, f"there is no SSH key file {file}", mend)
    elif isinstance(opened, OSError):
        reason = opened.strerror or str(opened)
        yield document.fault(element, f"SSH key file {file}: {reason}", mend)
    elif "PRIVATE KEY" in opened.text:
        yield document.fault(element, f"SSH key file {file} holds a private key", mend)
    elif not _SSH_PUBLIC.match(opened.text):
        yield document.fault(element, f"SSH key file {file} holds no SSH public key", mend)
