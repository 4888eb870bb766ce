"""Keys and signatures: what makes a statement somebody's.

One signature format everywhere: compact JWS (RFC 7515) with `alg` Ed25519 (RFC 9864) and keys as
OKP JWKs (RFC 8037), named by their thumbprints (RFC 7638). Claims, leases and receipts are JWTs
(RFC 7519) whose `typ` is checked (RFC 8725), with the holder's key in `cnf` (RFC 7800). The bytes
that arrived are verified before they are parsed; nothing is signed in a home-made canonical form.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import OrderedDict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import GuestProtocol, OKPKey
from joserfc.registry import HeaderParameter

from shirako.core.account import START, Citation
from shirako.core.claims import (
    CHAIN_LENGTH_MAX,
    OVERBOOKING_MAX,
    UNITS_MAX,
    Claim,
    Lease,
    Party,
    Receipt,
    Revocation,
)
from shirako.core.lineage import SUCCESSIONS_MAX, Lineage, LineageInvalid
from shirako.core.machine import Me
from shirako.core.messages import NAME_CHARACTERS_MAX
from shirako.core.terms import Term
from shirako.curve import key_fault
from shirako.lineage import (
    HEADER,
    HEADER_BYTES_MAX,
    SUCCESSION_TYPE,
    read_lineage,
    succession,
    tokens_of,
)


class _Registry(jws.JWSRegistry):
    """One algorithm, and room for an envelope of a megabyte."""

    max_payload_length = 1024 * 1024
    max_header_length = HEADER_BYTES_MAX


_LINEAGE = HeaderParameter("Successions that lead to the signing key", "list[str]")
REGISTRY = _Registry(algorithms=["Ed25519"], header_registry={HEADER: _LINEAGE})
TOKEN_CHARACTERS_MAX = 8192
CACHED_TOKENS_MAX = 20_000

CLAIM_TYPE = "shirako-claim+jwt"
LEASE_TYPE = "shirako-lease+jwt"
RECEIPT_TYPE = "shirako-receipt+jwt"
REVOCATION_TYPE = "shirako-revocation+jwt"
ENVELOPE_TYPE = "shirako-envelope+jws"
ACKNOWLEDGEMENT_TYPE = "shirako-ack+jws"


# One spelling of each: what is spent of a claim is counted under the digest of its token, and
# people are known by their keys. The last character has bits that mean nothing: they have to be 0.
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{85}[AQgw]")
_KEY = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_HEADERS_REMEMBERED_MAX = 1024
_LINEAGES_REMEMBERED_MAX = 1024


class Untrusted(Exception):
    """A signature, key or token that proves nothing; the message says what is wrong with it."""


class PublicKey:
    """Somebody's Ed25519 key, as pinned or endorsed: the first one, whichever signs for it now."""

    __slots__ = ("_jwk", "kid", "x")

    def __init__(self, x: str) -> None:
        if not _KEY.fullmatch(x):
            raise Untrusted(f"not an Ed25519 public key: {x[:50]!r}")
        if wrong := key_fault(base64.urlsafe_b64decode(f"{x}=")):
            raise Untrusted(f"not an Ed25519 public key: {x[:50]!r}: {wrong}")
        try:
            self._jwk = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})
        except (JoseError, ValueError) as error:
            raise Untrusted(f"not an Ed25519 public key: {x[:50]!r}") from error
        self.x = x
        self.kid = self._jwk.thumbprint()

    def verify(self, token: str, typ: str) -> bytes:
        """The payload of a compact JWS of this key, or of one that its header's lineage leads to.

        Raises `Untrusted`.
        """
        if not _COMPACT.fullmatch(token):
            raise Untrusted("not a compact JWS: three parts in base64url, the last a signature")
        stated = header(token)
        asked = {name: stated[name] for name in ("crit", "b64") if name in stated}
        if asked != ({"crit": [HEADER]} if HEADER in stated else {}):
            raise Untrusted(
                "the header asks for an extension of JWS (crit, b64): none is known but a lineage"
            )
        try:
            signed = jws.deserialize_compact(token, self._signer, registry=REGISTRY)
        except (JoseError, ValueError) as error:
            raise Untrusted(f"the signature does not hold: {error}") from error
        if stated.get("typ") != typ:
            raise Untrusted(f"a {stated.get('typ')!r} where a {typ!r} is due")
        if stated.get("kid", self.kid) != self.kid:
            raise Untrusted(f"the header names another key than signed it: {stated['kid']!r}")
        jwk = stated.get("jwk")
        if jwk is not None and (not isinstance(jwk, dict) or jwk.get("x") != self.x):
            raise Untrusted("the header shows another key than signed it")
        return bytes(signed.payload)

    def jwk(self) -> OKPKey:
        """This very key, whatever followed it."""
        return self._jwk

    def _signer(self, signed: GuestProtocol) -> OKPKey:
        """The key that the header's lineage leads to from this one."""
        stated = signed.headers().get(HEADER)
        if stated is None:
            return self._jwk
        found = _heir(stated)
        if found.lineage.x != self.x:
            raise Untrusted("the lineage is somebody else's: it does not start at this key")
        return found.key

    def statement(self, token: str, typ: str) -> bytes:
        """As `verify`, for what others are to read as well: no JSON object in it has a member
        twice, of which one reader may take the first and another one the last (RFC 7519)."""
        payload = self.verify(token, typ)
        try:
            _decode_unique(payload.decode())
        except (ValueError, RecursionError) as error:
            raise Untrusted(f"not a statement: {error}") from error
        return payload


class PrivateKey:
    """An actor's own key: signs, and never leaves this object."""

    __slots__ = ("_headers", "_jwk", "lineage", "public")

    def __init__(self, jwk: OKPKey, lineage: tuple[str, ...] = ()) -> None:
        """`lineage`: the successions that lead to this key. Raises `Untrusted`."""
        self._jwk = jwk
        self.lineage = lineage
        self.public = PublicKey(self.x)
        """Who the actor is: the first key of the lineage."""
        if lineage:
            found = _heir(lineage)
            if found.lineage.key != self.x:
                raise Untrusted("the lineage leads to another key")
            self.public = PublicKey(found.lineage.x)
        self._headers: dict[str, dict[str, Any]] = {}

    @property
    def x(self) -> str:
        """The public half of the key that signs."""
        return str(self._jwk.as_dict(private=False)["x"])

    @classmethod
    def generate(cls) -> PrivateKey:
        return cls(OKPKey.generate_key("Ed25519"))

    @classmethod
    def read(cls, path: Path) -> PrivateKey:
        """The key in a JWK file; raises `Untrusted` when it is not one, OSError when not there."""
        try:
            members = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            stated = members.pop(HEADER, None)
            jwk = OKPKey.import_key(members)
        # joserfc looks up what the file says without asking whether it is there
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise Untrusted(f"{path} is not a JWK: {error}") from error
        if not jwk.is_private or jwk.as_dict().get("crv") != "Ed25519":
            raise Untrusted(f"{path} holds no private Ed25519 key")
        try:
            return cls(jwk, _stated_in_file(stated))
        except Untrusted as error:
            raise Untrusted(f"{path}: {error}") from error

    def write(self, path: Path) -> None:
        """Write the private JWK (mode 0600) and the public half beside it, `NAME.pub.jwk`.

        Raises FileExistsError rather than overwrite a key: that would orphan every lease.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.private_file())
        public_path(path).write_bytes(self.public_file())

    def private_file(self) -> bytes:
        """What its file holds: the JWK, and the lineage that leads to it."""
        private = {**self._jwk.as_dict(private=True), "kid": self._jwk.thumbprint()}
        return _file(private, self.lineage)

    def public_file(self) -> bytes:
        """What peers pin: the first key, and the lineage that leads on from it."""
        first = {"kty": "OKP", "crv": "Ed25519", "x": self.public.x, "kid": self.public.kid}
        return _file(first, self.lineage)

    def succeeded(self, since: int, until: int) -> PrivateKey:
        """A fresh key that this one names as its successor from tick `since` on.

        `until`: the last tick at which unseen statements of the keys before are believed. Raises
        ValueError when the lineage is as long as one may be.
        """
        number = len(self.lineage) + 1
        if number > SUCCESSIONS_MAX:
            raise ValueError(f"a key can be replaced {SUCCESSIONS_MAX} times, and this one was")
        fresh = OKPKey.generate_key("Ed25519")
        x = str(fresh.as_dict(private=False)["x"])
        headers: dict[str, Any] = {"alg": "Ed25519", "typ": SUCCESSION_TYPE}
        headers["kid"] = self._jwk.thumbprint()
        if number == 1:
            headers["jwk"] = {"kty": "OKP", "crv": "Ed25519", "x": self.x}
        payload = succession(self.public.kid, number, x, since, until)
        token = jws.serialize_compact(headers, payload, self._jwk, registry=REGISTRY)
        return PrivateKey(fresh, (*self.lineage, token))

    def sign(self, typ: str, payload: bytes, *, with_key: bool = False) -> str:
        """A compact JWS; `with_key` adds the public key, for who does not know it yet.

        A key with a lineage always shows that, and with it the key that it begins with.
        """
        headers: dict[str, Any] = {"alg": "Ed25519", "typ": typ, "kid": self.public.kid}
        if self.lineage:
            headers |= {HEADER: list(self.lineage), "crit": [HEADER]}
        elif with_key:
            headers["jwk"] = {"kty": "OKP", "crv": "Ed25519", "x": self.public.x}
        return jws.serialize_compact(headers, payload, self._jwk, registry=REGISTRY)


class Heir(NamedTuple):
    """A verified lineage, and the key that it leads to."""

    lineage: Lineage
    key: OKPKey


def _heir(stated: object) -> Heir:
    """Where a lineage leads to, as a header or a file states it; raises `Untrusted`."""
    try:
        return _followed(tokens_of(stated))
    except LineageInvalid as error:
        raise Untrusted(f"the lineage does not hold: {error}") from error


@lru_cache(maxsize=_LINEAGES_REMEMBERED_MAX)
def _followed(tokens: tuple[str, ...]) -> Heir:
    """Remembered: it comes again with all that the actor signs. Raises `LineageInvalid`."""
    lineage = read_lineage(tokens, _verified_succession)
    return Heir(lineage, PublicKey(lineage.key).jwk())


def _verified_succession(x: str, token: str) -> bytes:
    try:
        return PublicKey(x).statement(token, SUCCESSION_TYPE)
    except Untrusted as error:
        raise LineageInvalid(str(error)) from error


def lineage_in(stated: object) -> Lineage:
    """The verified lineage that a header or a file states; raises `Untrusted`."""
    return _heir(stated).lineage


def lineage_of(token: str) -> tuple[str, ...]:
    """The lineage that a *verified* token shows; empty: its signer's first key signed it."""
    stated = _unique_header(token.partition(".")[0]).get(HEADER)
    return () if stated is None else _heir(stated).lineage.tokens


def _stated_in_file(stated: object) -> tuple[str, ...]:
    return () if stated is None else _heir(stated).lineage.tokens


def _file(jwk: dict[str, Any], lineage: tuple[str, ...]) -> bytes:
    return msgspec.json.encode({**jwk, HEADER: lineage} if lineage else jwk)


def public_path(private: Path) -> Path:
    """Where the public half of a key file lies."""
    return private.with_suffix(".pub.jwk")


class Pin(NamedTuple):
    """What a public key file says: who somebody is, and which keys have followed the first."""

    key: PublicKey
    lineage: tuple[str, ...]


def read_public(path: Path) -> PublicKey:
    """The key in a public JWK file; raises `Untrusted` or OSError."""
    return read_pin(path).key


def read_pin(path: Path) -> Pin:
    """The key in a public JWK file, and its lineage; raises `Untrusted` or OSError."""
    try:
        jwk = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Untrusted(f"{path} is not a JWK: {error}") from error
    if jwk.get("crv") != "Ed25519":
        raise Untrusted(f"{path} holds no Ed25519 key")
    key = PublicKey(str(jwk.get("x", "")))
    try:
        lineage = _stated_in_file(jwk.get(HEADER))
        if lineage and _heir(lineage).lineage.x != key.x:
            raise Untrusted("the lineage is somebody else's: it does not start at this key")
    except Untrusted as error:
        raise Untrusted(f"{path}: {error}") from error
    return Pin(key, lineage)


def digest(token: str) -> str:
    """SHA-256 of a token's bytes, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a JSON object in it has the same member twice")
    return members


_decode_unique = json.JSONDecoder(object_pairs_hook=_unique).decode


@lru_cache(maxsize=_HEADERS_REMEMBERED_MAX)
def _unique_header(segment: str) -> dict[str, Any]:
    """The first part of a token; raises `Untrusted`.

    Remembered: whoever signs writes the same header each time.
    """
    try:
        stated = _decode_unique(_decoded(segment).decode())
    except (ValueError, RecursionError) as error:
        raise Untrusted(f"not a header: {error}") from error
    if not isinstance(stated, dict):  # the library takes any JSON that has `alg` in it somehow
        raise Untrusted("not a header: it is no JSON object")
    return stated


def _decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def header(token: str) -> dict[str, Any]:
    """The protected header of a JWS, *not verified*: only to find out which key to try."""
    segment = token.partition(".")[0]
    if len(segment) > HEADER_BYTES_MAX:
        raise Untrusted(f"a header of {len(segment)} characters")
    return _unique_header(segment)


def unverified(token: str) -> bytes:
    """The payload of a JWS, *not verified*: only to find out what to hold it to."""
    _, dot, rest = token.partition(".")
    if not dot:
        raise Untrusted("not a compact JWS: three parts in base64url, the last a signature")
    try:
        return _decoded(rest.partition(".")[0])
    except ValueError as error:
        raise Untrusted(f"not a payload: {error}") from error


# Tokens: how claims, leases and receipts are written ----------------------------------------


class _Jwk(msgspec.Struct, frozen=True):
    x: str
    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"


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
    account: Citation = START


class _Named(msgspec.Struct, frozen=True):
    jti: str = ""


_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises on bytes that their signer made up: wrong, not UTF-8, nested too deep."""

_decode_name = msgspec.json.Decoder(_Named).decode
_decode_claim = msgspec.json.Decoder(_ClaimToken).decode
_decode_lease = msgspec.json.Decoder(Lease).decode
_decode_receipt = msgspec.json.Decoder(Receipt).decode
_decode_revocation = msgspec.json.Decoder(Revocation).decode


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
        account=claim.account,
    )
    return key.sign(CLAIM_TYPE, msgspec.json.encode(token))


def sign_lease(key: PrivateKey, lease: Lease) -> str:
    return key.sign(LEASE_TYPE, msgspec.json.encode(lease))


def sign_receipt(key: PrivateKey, receipt: Receipt) -> str:
    return key.sign(RECEIPT_TYPE, msgspec.json.encode(receipt))


def sign_revocation(key: PrivateKey, revocation: Revocation) -> str:
    return key.sign(REVOCATION_TYPE, msgspec.json.encode(revocation))


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
        sign_revocation=partial(sign_revocation, key),
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
        if not 1 <= len(tokens) <= CHAIN_LENGTH_MAX:
            raise Untrusted(
                f"a chain has 1 to {CHAIN_LENGTH_MAX} claims, this one has {len(tokens)}"
            )
        claims: list[Claim] = []
        x = ""
        for number, token in enumerate(tokens, 1):
            try:
                claim = self._claim(token, x)
            except Untrusted as error:
                raise Untrusted(f"claim {number}{_stated_jti(token)}: {error}") from error
            claims.append(claim)
            x = claim.holder.x
        return tuple(claims)

    def lease(self, token: str, issuer: PublicKey) -> Lease:
        """A lease that `issuer` signed; raises `Untrusted`."""
        try:
            lease: Lease = _decode_lease(issuer.statement(token, LEASE_TYPE))
        except _UNREADABLE as error:
            raise Untrusted(f"not a lease: {error}") from error
        _check_issuer(lease, issuer)
        return lease

    def receipt(self, token: str, issuer: PublicKey) -> Receipt:
        """A receipt that `issuer` signed; raises `Untrusted`."""
        try:
            receipt: Receipt = _decode_receipt(issuer.statement(token, RECEIPT_TYPE))
        except _UNREADABLE as error:
            raise Untrusted(f"not a receipt: {error}") from error
        _check_issuer(receipt, issuer)
        return receipt

    def revocation(self, token: str, issuer: PublicKey) -> Revocation:
        """A revocation that `issuer` signed; raises `Untrusted`."""
        try:
            revocation: Revocation = _decode_revocation(issuer.statement(token, REVOCATION_TYPE))
        except _UNREADABLE as error:
            raise Untrusted(f"not a revocation: {error}") from error
        _check_issuer(revocation, issuer)
        if revocation.units < 0 or revocation.number < 1:
            raise Untrusted("a revocation leaves 0 units or more, and is numbered from 1")
        return revocation

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
        if not token.isascii():
            raise Untrusted("not a compact JWS: it is not ASCII")
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
            raw = _decode_claim(signer.statement(token, CLAIM_TYPE))
            holder_key = self.key(raw.cnf.jwk.x)
            term = Term(raw.nbf, raw.exp)
        except _UNREADABLE as error:
            raise Untrusted(f"not a claim: {error}") from error
        if raw.iss != signer.kid or raw.sub != holder_key.kid:
            raise Untrusted("a claim's issuer or holder is not the key that it shows")
        if raw.jwk is not None and raw.jwk.x != signer.x:
            raise Untrusted("a claim's issuer or holder is not the key that it shows")
        if not 1 <= raw.units <= UNITS_MAX:
            raise Untrusted(f"a claim on no units, or on more than {UNITS_MAX}")
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
            account=raw.account,
            lineage=lineage_of(token),
        )


def _stated_key(token: str) -> str:
    """The `x` that a root claim states as its own issuer's; verified right after."""
    try:
        raw = _decode_claim(unverified(token))
    except _UNREADABLE as error:
        raise Untrusted(f"not a claim: {error}") from error
    if raw.jwk is None:
        raise Untrusted("the first claim of the chain is no root claim: it states no key")
    return raw.jwk.x


def _stated_jti(token: str) -> str:
    """What a token that was refused calls itself, for who looks for it; *not verified*."""
    try:
        jti = _decode_name(unverified(token)).jti
    except (Untrusted, *_UNREADABLE):
        return ""
    return f", which calls itself {jti[:NAME_CHARACTERS_MAX]!r}" if jti else ""


def _check_issuer(statement: Lease | Receipt | Revocation, issuer: PublicKey) -> None:
    if statement.issuer != issuer.kid:
        raise Untrusted("the statement names another issuer than the key that signed it")
