"""Real keys and real signatures, each verified once at most.

All actors of a run live in one process, so a token that comes to one of them was most often signed
by another one right here. Verifying it would cost four times as much as signing it, and would tell
what is known. So what the cast's own keys sign is remembered while `remembered()` is entered, and
only what is not remembered - forged, altered, or signed by a key outside the cast - is verified.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import OKPKey

from shirako.transport import envelope
from shirako.trust import CLAIM_TYPE, PrivateKey, PublicKey, Untrusted, header

_signed: dict[str, tuple[str, str, bytes, dict[str, Any]]] = {}
"""Token -> key that signed it, `typ`, payload and header."""


_claims: list[tuple[str, str]] = []
"""Every claim that the cast has signed, and the thumbprint of the key."""


class CastKey(PrivateKey):
    """A key of the cast: signs what `PrivateKey` would, byte for byte, and remembers it."""

    __slots__ = ("_name", "_prefixes", "_secret")

    def __init__(self, name: str, lineage: tuple[str, ...] = ()) -> None:
        """`name`: of the member of the cast; it and the length of the lineage choose the key."""
        jwk, secret = _made_up(f"{name} {len(lineage)}" if lineage else name)
        super().__init__(jwk, lineage)
        self._name = name
        self._secret = secret
        self._prefixes: dict[tuple[str, bool], tuple[bytes, dict[str, Any]]] = {}

    def sign(self, typ: str, payload: bytes, *, with_key: bool = False) -> str:
        known = self._prefixes.get((typ, with_key))
        if known is None:
            example = super().sign(typ, b"", with_key=with_key)
            known = (example.partition(".")[0].encode() + b".", header(example))
            self._prefixes[typ, with_key] = known
        prefix, headers = known
        signed = prefix + _base64url(payload)
        token = (signed + b"." + _base64url(self._secret.sign(signed))).decode()
        _signed[token] = (self.public.x, typ, payload, headers)
        if typ == CLAIM_TYPE:
            _claims.append((token, self.public.kid))
        return token

    def succeeded(self, since: int, until: int) -> CastKey:
        """As ever, but that the next key is the same in every run, too."""
        jwk, _ = _made_up(f"{self._name} {len(self.lineage) + 1}")
        generate = OKPKey.generate_key
        OKPKey.generate_key = lambda *_: jwk  # type: ignore[method-assign]
        try:
            return CastKey(self._name, super().succeeded(since, until).lineage)
        finally:
            OKPKey.generate_key = generate  # type: ignore[method-assign]

    def sign_bytes(self, data: bytes) -> bytes:
        """A bare signature, to make tokens that no honest actor would make."""
        return self._secret.sign(data)


_URLSAFE = bytes.maketrans(b"+/", b"-_")


def _base64url(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False).translate(_URLSAFE).rstrip(b"=")


@cache
def key_of(name: str) -> CastKey:
    """The first key of this member of the cast: the same in every run."""
    return CastKey(name)


@cache
def _made_up(name: str) -> tuple[OKPKey, Ed25519PrivateKey]:
    seed = f"simulated {name}".encode().ljust(32, b".")[:32]
    secret = Ed25519PrivateKey.from_private_bytes(seed)
    x = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwk: dict[str, str | list[str]] = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": _base64url(seed).decode(),
        "x": _base64url(x).decode(),
    }
    return OKPKey.import_key(jwk), secret


def payload_of(token: str) -> bytes | None:
    """What a token says that a key of the cast has signed in this run; None for any other."""
    known = _signed.get(token)
    return known[2] if known else None


def signed_claims() -> list[tuple[str, str]]:
    """Claims that the cast has signed in this run, in order, each with its key's thumbprint."""
    return _claims


_really_verify = PublicKey.verify
_really_make = PublicKey.__init__
_made: dict[str, PublicKey] = {}
"""Public keys by their `x`: parsing one costs as much as a signature, and every actor that starts
parses those of its peers."""


def _make(self: PublicKey, x: str) -> None:
    known = _made.get(x)
    if known is None:
        _really_make(self, x)
        _made[x] = self
    else:
        self._jwk, self.x, self.kid = known._jwk, known.x, known.kid  # noqa: SLF001 - a copy


def _verify(self: PublicKey, token: str, typ: str) -> bytes:
    known = _signed.get(token)
    if known is None or known[0] != self.x:
        return _really_verify(self, token, typ)
    if known[1] != typ:
        raise Untrusted(f"a {known[1]!r} where a {typ!r} is due")
    return known[2]


def _header(token: str) -> dict[str, Any]:
    known = _signed.get(token)
    return known[3] if known is not None else header(token)


@contextmanager
def remembered(*, memory: bool = True) -> Iterator[None]:
    """Verify only what the cast has not signed. `memory` off: verify everything, as ever."""
    _forget()
    if memory:
        PublicKey.__init__ = _make  # type: ignore[method-assign]
        PublicKey.verify = _verify  # type: ignore[method-assign]
        envelope.__dict__["header"] = _header
    try:
        yield
    finally:
        PublicKey.__init__ = _really_make  # type: ignore[method-assign]
        PublicKey.verify = _really_verify  # type: ignore[method-assign]
        envelope.__dict__["header"] = header
        _forget()


def _forget() -> None:
    _signed.clear()
    _claims.clear()
