"""The three actors of the tests, without loops or clocks: fixed keys, real signatures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import OKPKey

from shirako import trust
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.service_manager import ServiceManager
from shirako.core.claims import Claim, Lease, Party, Receipt, Revocation
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import Me
from shirako.core.policy import Assignment
from shirako.core.terms import Term
from shirako.transport.limits import LEASES_A_GUEST
from shirako.trust import PrivateKey
from shirako_policies.first_come import FirstCome
from shirako_policies.first_fit import FirstFit
from shirako_policies.static import Static

SKEW = 2
TYPE = "node.small"


def sign_raw(key: PrivateKey, data: bytes) -> bytes:
    """A signature on any bytes, to forge what no API would make."""
    secret = key._jwk.get_op_key("sign")
    assert isinstance(secret, Ed25519PrivateKey)
    return secret.sign(data)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@cache
def key_of(name: str) -> PrivateKey:
    """The same key for the same name, always."""
    seed = name.encode().ljust(32, b".")
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    x = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwk: dict[str, str | list[str]] = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": _text(seed),
        "x": _text(x),
    }
    return PrivateKey(OKPKey.import_key(jwk))


@cache
def party_of(name: str) -> Party:
    public = key_of(name).public
    return Party(public.kid, public.x, f"local://{name}", name)


@cache
def me_of(name: str) -> Me:
    key = key_of(name)

    @cache
    def sign_claim(claim: Claim) -> str:
        return trust.sign_claim(key, claim)

    @cache
    def sign_lease(lease: Lease) -> str:
        return trust.sign_lease(key, lease)

    @cache
    def sign_receipt(receipt: Receipt) -> str:
        return trust.sign_receipt(key, receipt)

    @cache
    def sign_revocation(revocation: Revocation) -> str:
        return trust.sign_revocation(key, revocation)

    return Me(party_of(name), sign_claim, sign_lease, sign_receipt, sign_revocation, skew=SKEW)


def known(*names: str) -> dict[str, Party]:
    return {party_of(name).kid: party_of(name) for name in names}


def open_site(
    units: Sequence[str] = ("n1",),
    brokers: Sequence[str] = ("broker",),
    kind: str = TYPE,
    leases_a_guest: int = LEASES_A_GUEST,
) -> Authority:
    near, pools = known(*brokers), {kind: tuple(units)}
    policies: dict[str, Assignment] = {kind: FirstFit()}
    return Authority(me_of("site"), near, pools, policies, leases_a_guest=leases_a_guest)


def open_broker(
    sites: Sequence[str] = ("site",),
    guests: Sequence[str] = ("guest",),
    name: str = "broker",
    leases_a_guest: int = LEASES_A_GUEST,
) -> Broker:
    suppliers, policy = known(*sites), FirstCome()
    return Broker(me_of(name), suppliers, known(*guests), policy, leases_a_guest=leases_a_guest)


def open_guest(name: str = "guest", *, joins: bool = False, lead: int = 2) -> ServiceManager:
    return ServiceManager(me_of(name), known("broker"), Static(), joins=joins, lead=lead)


def share_of(
    units: int, term: Term, *, name: str = "d1", overbooking: float = 1.0, to: str = "broker"
) -> Delegation:
    return Delegation(
        id=name,
        holder=party_of(to),
        type=TYPE,
        units=units,
        term=term,
        chain=(),
        overbooking=overbooking,
    )


def wish(
    name: str,
    term: Term,
    *,
    units: int = 1,
    least: int | None = None,
    guest: str = "guest",
    configuration: Mapping[str, str] | None = None,
) -> GuestLease:
    return GuestLease(
        id=name,
        guest=party_of(guest),
        slice="s",
        type=TYPE,
        units=units,
        least_units=units if least is None else least,
        state=GuestState.NASCENT,
        broker=party_of("broker"),
        term=term,
        configuration=dict(configuration or {}),
    )
