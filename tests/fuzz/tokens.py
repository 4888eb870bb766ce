"""Signed tokens as open documents, so that what is changed inside of one is signed again.

`opened` puts a document in the place of every token in a JSON tree whose signer is one of ours;
`closed` signs them all again, and makes claims name their changed parents by their new digests.
Without it, next to every change would end at the first signature.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from shirako.trust import PrivateKey, digest
from tests.core.cast import key_of

NAMES = ("site", "broker", "guest", "stranger")
_MARK = "signed by"
_BY_KID = {key_of(name).public.kid: name for name in NAMES}


def opened(value: Any) -> Any:
    """The tree with tokens as `{"signed by": name, "typ": …, "says": payload, "was": digest}`."""
    if isinstance(value, dict):
        return {name: opened(part) for name, part in value.items()}
    if isinstance(value, list):
        return [opened(part) for part in value]
    return _opened_token(value) if isinstance(value, str) and value.count(".") == 2 else value


def _opened_token(token: str) -> Any:
    try:
        head, says, _ = (base64.urlsafe_b64decode(f"{part}===") for part in token.split("."))
        header, content = json.loads(head), json.loads(says)
        name = _BY_KID[header["kid"]]
    except (ValueError, KeyError, TypeError):
        return token
    shown = "jwk" in header
    return {
        _MARK: name,
        "typ": header["typ"],
        "shown": shown,
        "says": opened(content),
        "was": digest(token),
    }


def closed(value: Any, digests: dict[str, str] | None = None) -> Any:
    """The tree with every token signed; children after their parents, as they stand in a chain."""
    digests = {} if digests is None else digests
    if isinstance(value, list):
        return [closed(part, digests) for part in value]
    if not isinstance(value, dict):
        return digests.get(value, value) if isinstance(value, str) else value
    says = {name: closed(part, digests) for name, part in value.items() if name != "was"}
    if _MARK not in value:
        return says
    token = sign(says)
    was = value.get("was")
    if isinstance(was, str):
        digests[was] = digest(token)
    return token


def sign(node: dict[str, Any]) -> str:
    """One token; who or what signs it may have been changed to something that can not be."""
    # as ours are written: what was not changed comes out as the very same token
    payload = json.dumps(node.get("says"), separators=(",", ":")).encode()
    typ = node.get("typ")
    return signer(node.get(_MARK)).sign(
        typ if isinstance(typ, str) and typ.isprintable() else "x",
        payload,
        with_key=node.get("shown") is True,
    )


def signer(name: object) -> PrivateKey:
    """The key of somebody; whoever is not known is a stranger."""
    return key_of(name if isinstance(name, str) and name in NAMES else "stranger")
