"""Keys that follow one another, honestly and otherwise."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from joserfc import jws

from shirako.lineage import SUCCESSION_TYPE, succession
from shirako.trust import REGISTRY, PrivateKey

NOW = 1_800_000_000
GRACE = 1000


def line_of(length: int, first: PrivateKey | None = None) -> list[PrivateKey]:
    """A first key and those that follow it: one each tick from `NOW` on."""
    keys = [first or PrivateKey.generate()]
    start = len(keys[0].lineage)
    for number in range(start, start + length):
        keys.append(keys[-1].succeeded(NOW + number, NOW + number + GRACE))
    return keys


def forged(signer: PrivateKey, **changes: Any) -> str:
    """A succession that says what an honest actor's never would, truly signed by `signer`."""
    identity = str(changes.pop("identity", signer.public.kid))
    number = int(changes.pop("number", len(signer.lineage) + 1))
    x = str(changes.pop("x", PrivateKey.generate().x))
    since = int(changes.pop("since", NOW + number - 1))
    until = int(changes.pop("until", since + GRACE))
    kid = signer._jwk.thumbprint()
    headers: dict[str, Any] = {"alg": "Ed25519", "typ": SUCCESSION_TYPE, "kid": kid}
    if number == 1:
        headers["jwk"] = {"kty": "OKP", "crv": "Ed25519", "x": signer.x}
    headers |= changes.pop("headers", {})
    payload = json.loads(succession(identity, number, x, since, until)) | changes
    return jws.serialize_compact(headers, msgspec.json.encode(payload), signer._jwk, None, REGISTRY)


def shown(signer: PrivateKey, lineage: tuple[object, ...], typ: str = "t") -> str:
    """A token of `signer`'s with any lineage in its header."""
    headers: dict[str, Any] = {"alg": "Ed25519", "typ": typ, "kid": signer.public.kid}
    headers |= {"lineage": list(lineage), "crit": ["lineage"]}
    return jws.serialize_compact(headers, b"{}", signer._jwk, None, REGISTRY)
