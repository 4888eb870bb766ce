"""Successions: how one key of an actor names the next, written and read (`shirako.core.lineage`).

A succession is a JWT of the type `shirako-succession+jwt`, signed by the key that retires: `iss`
and `sub` are the actor's identity, `cnf` is the next key, `number` counts from 1, `nbf` is the tick
from which the next key is the actor's, `until` the last tick at which unseen statements of earlier
keys are believed. The first one shows the key that it is signed with, so that a lineage can be
read by somebody who knows the thumbprint of the actor alone.

What a later key signs carries the lineage in the header `lineage`, which is critical (RFC 7515,
4.1.11): who does not know it refuses the token instead of trying the wrong key.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec

from shirako.core.lineage import SUCCESSIONS_MAX, Lineage, LineageInvalid, Succession

SUCCESSION_TYPE = "shirako-succession+jwt"
HEADER = "lineage"
HEADER_BYTES_MAX = 8192
"""Of a header with the longest lineage; joserfc takes 512 by itself."""
SUCCESSION_CHARACTERS_MAX = 1024

Verify = Callable[[str, str], bytes]
"""`(x, token)` -> the payload of a succession that the key `x` signed; `LineageInvalid` if not."""


class _Jwk(msgspec.Struct, frozen=True):
    x: str
    kty: str = "OKP"
    crv: str = "Ed25519"


class _Confirmation(msgspec.Struct, frozen=True):
    jwk: _Jwk


class _SuccessionToken(msgspec.Struct, frozen=True, kw_only=True):
    iss: str
    sub: str
    cnf: _Confirmation
    number: int
    nbf: int
    until: int


class _Header(msgspec.Struct, frozen=True):
    kid: str
    jwk: _Jwk | None = None
    lineage: Any = None


_decode = msgspec.json.Decoder(_SuccessionToken).decode
_decode_header = msgspec.json.Decoder(_Header).decode
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def succession(identity: str, number: int, x: str, since: int, until: int) -> bytes:
    """The payload that names `x` as the key that follows; `number`: 1 for the first such step."""
    token = _SuccessionToken(
        iss=identity,
        sub=identity,
        cnf=_Confirmation(_Jwk(x)),
        number=number,
        nbf=since,
        until=until,
    )
    return msgspec.json.encode(token)


def tokens_of(stated: object) -> tuple[str, ...]:
    """A lineage as a header or a file states it, within bounds; raises `LineageInvalid`."""
    if not isinstance(stated, list | tuple) or not stated:
        raise LineageInvalid("a lineage is a list of successions")
    if len(stated) > SUCCESSIONS_MAX:
        raise LineageInvalid(
            f"a lineage has at most {SUCCESSIONS_MAX} successions, this one has {len(stated)}"
        )
    for token in stated:
        if not isinstance(token, str) or len(token) > SUCCESSION_CHARACTERS_MAX:
            raise LineageInvalid(
                f"a succession is a compact JWS of at most {SUCCESSION_CHARACTERS_MAX} characters"
            )
    return tuple(stated)


def read_lineage(tokens: tuple[str, ...], verify: Verify) -> Lineage:
    """The lineage, each step verified with the key before it; raises `LineageInvalid`."""
    # order and number first: they cost nothing, and tell more than a signature that fails
    for place, token in enumerate(tokens, 1):
        number = _peek(token).number
        if number != place:
            raise LineageInvalid(
                f"it is cut or out of order: succession {number} is where {place} is due"
            )
    first = _peek_header(tokens[0])
    if first.jwk is None:
        raise LineageInvalid("succession 1 does not show the key that it is signed with")
    x = first.jwk.x
    keys, steps = [x], list[Succession]()
    for place, token in enumerate(tokens, 1):
        raw = _verified(place, token, x, verify)
        if raw.iss != first.kid or raw.sub != first.kid:
            raise LineageInvalid(f"succession {place} is about another actor")
        if steps and raw.nbf < steps[-1].since:
            raise LineageInvalid(f"succession {place} begins before the one that it follows")
        if raw.until < raw.nbf:
            raise LineageInvalid(f"succession {place} ends what came before it before it begins")
        x = raw.cnf.jwk.x
        if x in keys:
            raise LineageInvalid(f"succession {place} comes back to a key that was replaced")
        keys.append(x)
        steps.append(Succession(number=place, x=x, since=raw.nbf, until=raw.until))
    return Lineage(identity=first.kid, x=keys[0], successions=tuple(steps), tokens=tokens)


def _verified(place: int, token: str, x: str, verify: Verify) -> _SuccessionToken:
    if _peek_header(token).lineage is not None:
        raise LineageInvalid(f"succession {place} carries a lineage itself")
    try:
        raw = _decode(verify(x, token))
    except (LineageInvalid, *_UNREADABLE) as error:
        raise LineageInvalid(
            f"succession {place} is not signed by the key before it: {error}"
        ) from error
    return raw


def _peek(token: str) -> _SuccessionToken:
    """What a succession says, *not verified*."""
    try:
        return _decode(_part(token, 1))
    except _UNREADABLE as error:
        raise LineageInvalid(f"not a succession: {error}") from error


def _peek_header(token: str) -> _Header:
    try:
        return _decode_header(_part(token, 0))
    except _UNREADABLE as error:
        raise LineageInvalid(f"not the header of a succession: {error}") from error


def _part(token: str, number: int) -> bytes:
    segments = token.split(".")
    if len(segments) != 3:
        raise ValueError("a compact JWS has three parts")
    segment = segments[number]
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
