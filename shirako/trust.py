"""Keys and signatures: what makes a statement somebody's.

One signature format everywhere: compact JWS (RFC 7515) with `alg` Ed25519 (RFC 9864) and keys as
OKP JWKs (RFC 8037), named by their thumbprints (RFC 7638). Claims, leases and receipts are JWTs
(RFC 7519) whose `typ` is checked (RFC 8725), with the holder's key in `cnf` (RFC 7800). The bytes
that arrived are verified before they are parsed; nothing is signed in a home-made canonical form.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from shirako.core.claims import OVERBOOKING_MAX, Claim, Lease, Party, Receipt
from shirako.core.machine import Me
from shirako.core.terms import Term


class _Registry(jws.JWSRegistry):
    """One algorithm, and room for an envelope of a megabyte."""

    max_payload_length = 1024 * 1024


REGISTRY = _Registry(algorithms=["Ed25519"])
TOKEN_CHARACTERS_MAX = 8192
CACHED_TOKENS_MAX = 20_000

CLAIM_TYPE = "shirako-claim+jwt"
LEASE_TYPE = "shirako-lease+jwt"
RECEIPT_TYPE = "shirako-receipt+jwt"
ENVELOPE_TYPE = "shirako-envelope+jws"
ACKNOWLEDGEMENT_TYPE = "shirako-ack+jws"


class Untrusted(Exception):
    """A signature, key or token that proves nothing; the message says what is wrong with it."""


class PublicKey:
    """Somebody's Ed25519 key, as pinned or endorsed."""

    __slots__ = ("_jwk", "kid", "x")

    def __init__(self, x: str) -> None:
        try:
            self._jwk = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})
        except (JoseError, ValueError) as error:
            raise Untrusted(f"not an Ed25519 public key: {x[:50]!r}") from error
        self.x = x
        self.kid = self._jwk.thumbprint()

    def verify(self, token: str, typ: str) -> bytes:
        """The payload of a compact JWS of this key and type; raises `Untrusted`."""
        try:
            signed = jws.deserialize_compact(token, self._jwk, registry=REGISTRY)
        except (JoseError, ValueError) as error:
            raise Untrusted(f"the signature does not hold: {error}") from error
        if signed.headers().get("typ") != typ:
            raise Untrusted(f"a {signed.headers().get('typ')!r} where a {typ!r} is due")
        return bytes(signed.payload)


class PrivateKey:
    """An actor's own key: signs, and never leaves this object."""

    __slots__ = ("_headers", "_jwk", "public")

    def __init__(self, jwk: OKPKey) -> None:
        self._jwk = jwk
        self.public = PublicKey(str(jwk.as_dict(private=False)["x"]))
        self._headers: dict[str, dict[str, Any]] = {}

    @classmethod
    def generate(cls) -> PrivateKey:
        return cls(OKPKey.generate_key("Ed25519"))

    @classmethod
    def read(cls, path: Path) -> PrivateKey:
        """The key in a JWK file; raises `Untrusted` when it is not one, OSError when not there."""
        try:
            jwk = OKPKey.import_key(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]))
        except (JoseError, ValueError, msgspec.MsgspecError) as error:
            raise Untrusted(f"{path} is not a JWK: {error}") from error
        if not jwk.is_private or jwk.as_dict().get("crv") != "Ed25519":
            raise Untrusted(f"{path} holds no private Ed25519 key")
        return cls(jwk)

    def write(self, path: Path) -> None:
        """Write the private JWK (mode 0600) and the public half beside it, `NAME.pub.jwk`.

        Raises FileExistsError rather than overwrite a key: that would orphan every lease.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = {**self._jwk.as_dict(private=True), "kid": self.public.kid}
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(private))
        public = {"kty": "OKP", "crv": "Ed25519", "x": self.public.x, "kid": self.public.kid}
        public_path(path).write_bytes(msgspec.json.encode(public))

    def sign(self, typ: str, payload: bytes, *, with_key: bool = False) -> str:
        """A compact JWS; `with_key` adds the public key, for who does not know it yet."""
        headers: dict[str, Any] = {"alg": "Ed25519", "typ": typ, "kid": self.public.kid}
        if with_key:
            headers["jwk"] = {"kty": "OKP", "crv": "Ed25519", "x": self.public.x}
        return jws.serialize_compact(headers, payload, self._jwk, registry=REGISTRY)


def public_path(private: Path) -> Path:
    """Where the public half of a key file lies."""
    return private.with_suffix(".pub.jwk")


def read_public(path: Path) -> PublicKey:
    """The key in a public JWK file; raises `Untrusted` or OSError."""
    try:
        jwk = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Untrusted(f"{path} is not a JWK: {error}") from error
    if jwk.get("crv") != "Ed25519":
        raise Untrusted(f"{path} holds no Ed25519 key")
    return PublicKey(str(jwk.get("x", "")))


def digest(token: str) -> str:
    """SHA-256 of a token's bytes, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def header(token: str) -> dict[str, Any]:
    """The protected header of a JWS, *not verified*: only to find out which key to try."""
    try:
        return jws.extract_compact(token.encode(), registry=REGISTRY).headers()
    except (JoseError, ValueError) as error:
        raise Untrusted(f"not a compact JWS: {error}") from error


# Tokens: how claims, leases and receipts are written ----------------------------------------


class _Jwk(msgspec.Struct, frozen=True):
    x: str
    kty: str = "OKP"
    crv: str = "Ed25519"


class _Confirmation(msgspec.Struct, frozen=True):
    jwk: _Jwk


class _Site(msgspec.Struct, frozen=True, omit_defaults=True):
    url: str
    name: str = ""


class _ClaimToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    iss: str
    sub: str
    cnf: _Confirmation
    nbf: int
    exp: int
    jti: str
    type: str
    units: int
    url: str
    """The holder's address."""
    name: str = ""
    parent: str = ""
    rid: str = ""
    extends: str = ""
    overbooking: float = 1.0
    jwk: _Jwk | None = None
    """In a root claim: the site's own key, so that its holders can verify the chain."""
    site: _Site | None = None


_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises on bytes that their signer made up: wrong, not UTF-8, nested too deep."""

_decode_claim = msgspec.json.Decoder(_ClaimToken).decode
_decode_lease = msgspec.json.Decoder(Lease).decode
_decode_receipt = msgspec.json.Decoder(Receipt).decode


def sign_claim(key: PrivateKey, claim: Claim) -> str:
    """The token of a claim that `key` issues; `claim.digest` is not part of it."""
    token = _ClaimToken(
        iss=key.public.kid,
        sub=claim.holder.kid,
        cnf=_Confirmation(_Jwk(claim.holder.x)),
        nbf=claim.term.start,
        exp=claim.term.end,
        jti=claim.jti,
        type=claim.type,
        units=claim.units,
        url=claim.holder.url,
        name=claim.holder.name,
        parent=claim.parent,
        rid=claim.reservation,
        extends=claim.extends,
        overbooking=claim.overbooking,
        jwk=_Jwk(key.public.x) if claim.site else None,
        site=_Site(claim.site.url, claim.site.name) if claim.site else None,
    )
    return key.sign(CLAIM_TYPE, msgspec.json.encode(token))


def sign_lease(key: PrivateKey, lease: Lease) -> str:
    return key.sign(LEASE_TYPE, msgspec.json.encode(lease))


def sign_receipt(key: PrivateKey, receipt: Receipt) -> str:
    return key.sign(RECEIPT_TYPE, msgspec.json.encode(receipt))


def party_of(key: PublicKey, url: str, name: str) -> Party:
    """How an actor with this key and address is named to others."""
    return Party(kid=key.kid, x=key.x, url=url, name=name)


def me_of(key: PrivateKey, party: Party, skew: int) -> Me:
    """What the core needs of the actor it works for: who it is, and its signature."""
    return Me(
        party=party,
        sign_claim=partial(sign_claim, key),
        sign_lease=partial(sign_lease, key),
        sign_receipt=partial(sign_receipt, key),
        skew=skew,
    )


class Verifier:
    """Reads tokens, verifying each signature once: parents come again with every ticket."""

    def __init__(self) -> None:
        self._claims: OrderedDict[tuple[str, str], Claim] = OrderedDict()
        self._keys: dict[str, PublicKey] = {}

    def chain(self, tokens: tuple[str, ...]) -> tuple[Claim, ...]:
        """The claims of a chain, each verified with the key that the one before it confirms.

        The root's key is the one that it states itself; that this is the site's own key is for
        the caller to check (`core.claims.check_chain`). Raises `Untrusted`.
        """
        claims: list[Claim] = []
        x = ""
        for token in tokens:
            claim = self._claim(token, x)
            claims.append(claim)
            x = claim.holder.x
        return tuple(claims)

    def lease(self, token: str, issuer: PublicKey) -> Lease:
        """A lease that `issuer` signed; raises `Untrusted`."""
        try:
            lease: Lease = _decode_lease(issuer.verify(token, LEASE_TYPE))
        except _UNREADABLE as error:
            raise Untrusted(f"not a lease: {error}") from error
        _check_issuer(lease, issuer)
        return lease

    def receipt(self, token: str, issuer: PublicKey) -> Receipt:
        """A receipt that `issuer` signed; raises `Untrusted`."""
        try:
            receipt: Receipt = _decode_receipt(issuer.verify(token, RECEIPT_TYPE))
        except _UNREADABLE as error:
            raise Untrusted(f"not a receipt: {error}") from error
        _check_issuer(receipt, issuer)
        return receipt

    def key(self, x: str) -> PublicKey:
        """The public key with this `x`; parsed once."""
        known = self._keys.get(x)
        if known is None:
            known = PublicKey(x)
            if len(self._keys) >= CACHED_TOKENS_MAX:
                self._keys.clear()
            self._keys[x] = known
        return known

    def _claim(self, token: str, signer_x: str) -> Claim:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise Untrusted(f"a claim of {len(token)} characters")
        name = (digest(token), signer_x)
        known = self._claims.get(name)
        if known is not None:
            self._claims.move_to_end(name)
            return known
        claim = self._read_claim(token, signer_x, name[0])
        self._claims[name] = claim
        if len(self._claims) > CACHED_TOKENS_MAX:
            self._claims.popitem(last=False)
        return claim

    def _read_claim(self, token: str, signer_x: str, token_digest: str) -> Claim:
        signer = self.key(signer_x or _stated_key(token))
        try:
            raw = _decode_claim(signer.verify(token, CLAIM_TYPE))
            holder_key = self.key(raw.cnf.jwk.x)
            term = Term(raw.nbf, raw.exp)
        except _UNREADABLE as error:
            raise Untrusted(f"not a claim: {error}") from error
        if raw.iss != signer.kid or raw.sub != holder_key.kid:
            raise Untrusted("a claim's issuer or holder is not the key that it shows")
        if raw.units < 1:
            raise Untrusted(f"a claim on {raw.units} units")
        if not 1 <= raw.overbooking <= OVERBOOKING_MAX:
            raise Untrusted(f"a claim that allows {raw.overbooking:g} times its units")
        site = Party(signer.kid, signer.x, raw.site.url, raw.site.name) if raw.site else None
        return Claim(
            jti=raw.jti,
            issuer=raw.iss,
            holder=Party(holder_key.kid, holder_key.x, raw.url, raw.name),
            type=raw.type,
            units=raw.units,
            term=term,
            digest=token_digest,
            parent=raw.parent,
            reservation=raw.rid,
            extends=raw.extends,
            overbooking=raw.overbooking,
            site=site,
        )


def _stated_key(token: str) -> str:
    """The `x` that a root claim states as its own issuer's; verified right after."""
    try:
        payload = jws.extract_compact(token.encode(), registry=REGISTRY).payload
        raw = _decode_claim(payload)
    except (JoseError, *_UNREADABLE) as error:
        raise Untrusted(f"not a claim: {error}") from error
    if raw.jwk is None:
        raise Untrusted("the first claim of the chain is no root claim: it states no key")
    return raw.jwk.x


def _check_issuer(statement: Lease | Receipt, issuer: PublicKey) -> None:
    if statement.issuer != issuer.kid:
        raise Untrusted("the statement names another issuer than the key that signed it")
