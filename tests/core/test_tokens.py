"""ROOTED: a statement counts only with the right key, the right `typ` and the bytes as signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey
from msgspec.structs import replace

from shirako import trust
from shirako.core.claims import Claim, Lease, Receipt
from shirako.core.terms import Term
from shirako.trust import (
    CLAIM_TYPE,
    LEASE_TYPE,
    RECEIPT_TYPE,
    TOKEN_CHARACTERS_MAX,
    PrivateKey,
    PublicKey,
    Untrusted,
    Verifier,
)
from tests.core.cast import TYPE, key_of, party_of
from tests.core.tokens import compact, content_of, text_of

SITE, BROKER, GUEST = key_of("site"), key_of("broker"), key_of("guest")

ROOT = Claim(
    jti="d1",
    issuer=SITE.public.kid,
    holder=party_of("broker"),
    type=TYPE,
    units=10,
    term=Term(0, 100),
    digest="",
    overbooking=1.5,
    site=party_of("site"),
)
ROOT_TOKEN = trust.sign_claim(SITE, ROOT)
LEAF = Claim(
    jti="t1",
    issuer=BROKER.public.kid,
    holder=party_of("guest"),
    type=TYPE,
    units=4,
    term=Term(10, 50),
    digest="",
    parent=trust.digest(ROOT_TOKEN),
    reservation="L1",
    extends="t0",
)
LEAF_TOKEN = trust.sign_claim(BROKER, LEAF)
LEASE = Lease(
    jti="L1/50",
    issuer=SITE.public.kid,
    holder=GUEST.public.kid,
    reservation="L1",
    type=TYPE,
    units=("n1", "n2"),
    term=Term(10, 50),
)
RECEIPT = Receipt(
    jti="L1/50",
    issuer=SITE.public.kid,
    holder=GUEST.public.kid,
    reservation="L1",
    claims=("t1",),
    units_freed=2,
    tick=40,
    redeemed=True,
    final=True,
    checks=("account_gone",),
    failed_units=("n2",),
)


def with_payload(token: str, **changes: Any) -> str:
    """The token with other content under the old signature."""
    head, _, signature = token.split(".")
    content = {**content_of(token), **changes}
    return ".".join((head, text_of(json.dumps(content).encode()), signature))


def signed(key: PrivateKey, typ: str, content: dict[str, Any]) -> str:
    return key.sign(typ, msgspec.json.encode(content))


def test_a_chain_reads_back_as_it_was_signed() -> None:
    root, leaf = Verifier().chain((ROOT_TOKEN, LEAF_TOKEN))
    assert root == replace(ROOT, digest=trust.digest(ROOT_TOKEN))
    assert leaf == replace(LEAF, digest=trust.digest(LEAF_TOKEN))


def test_leases_and_receipts_read_back_as_they_were_signed() -> None:
    verifier = Verifier()
    assert verifier.lease(trust.sign_lease(SITE, LEASE), SITE.public) == LEASE
    assert verifier.receipt(trust.sign_receipt(SITE, RECEIPT), SITE.public) == RECEIPT


terms = st.integers(0, 10**9).flatmap(
    lambda start: st.integers(start + 1, 2 * 10**9).map(lambda end: Term(start, end))
)


@settings(max_examples=50)
@given(
    term=terms,
    units=st.integers(1, 10**6),
    jti=st.text(max_size=60),
    kind=st.text(min_size=1, max_size=60),
    overbooking=st.floats(1, 100),
)
def test_any_claim_survives_the_round_trip(
    term: Term, units: int, jti: str, kind: str, overbooking: float
) -> None:
    claim = replace(ROOT, term=term, units=units, jti=jti, type=kind, overbooking=overbooking)
    token = trust.sign_claim(SITE, claim)
    (read,) = Verifier().chain((token,))
    assert read == replace(claim, digest=trust.digest(token))


def test_the_wrong_key_is_refused() -> None:
    with pytest.raises(Untrusted, match="signature does not hold"):
        Verifier().chain((ROOT_TOKEN, trust.sign_claim(GUEST, replace(LEAF))))
    with pytest.raises(Untrusted, match="signature does not hold"):
        Verifier().lease(trust.sign_lease(BROKER, LEASE), SITE.public)
    with pytest.raises(Untrusted, match="signature does not hold"):
        Verifier().receipt(trust.sign_receipt(GUEST, RECEIPT), SITE.public)


def test_every_kind_of_statement_is_refused_in_the_place_of_another() -> None:
    """RFC 8725: a token that was made for one purpose is no use for another."""
    tokens = {
        CLAIM_TYPE: ROOT_TOKEN,
        LEASE_TYPE: trust.sign_lease(SITE, LEASE),
        RECEIPT_TYPE: trust.sign_receipt(SITE, RECEIPT),
    }
    verifier = Verifier()
    readers: dict[str, Callable[[str], object]] = {
        CLAIM_TYPE: lambda token: verifier.chain((token,)),
        LEASE_TYPE: lambda token: verifier.lease(token, SITE.public),
        RECEIPT_TYPE: lambda token: verifier.receipt(token, SITE.public),
    }
    for made, token in tokens.items():
        readers[made](token)
        for due, read in readers.items():
            if due != made:
                with pytest.raises(Untrusted):
                    read(token)


def test_the_typ_is_checked_even_where_the_content_would_do() -> None:
    token = SITE.sign(RECEIPT_TYPE, msgspec.json.encode(LEASE))
    with pytest.raises(Untrusted, match="where a 'shirako-lease"):
        Verifier().lease(token, SITE.public)
    untyped = jws.serialize_compact(
        {"alg": "Ed25519"}, msgspec.json.encode(LEASE), SITE._jwk, registry=trust.REGISTRY
    )
    with pytest.raises(Untrusted, match="a None where"):
        Verifier().lease(untyped, SITE.public)


@pytest.mark.parametrize("alg", ["none", "EdDSA", "HS256", "ES256", "", None])
def test_no_other_algorithm_is_taken(alg: str | None) -> None:
    """RFC 8725: the algorithm is ours to choose; `EdDSA` is deprecated by RFC 9864."""
    token = compact(SITE, {"alg": alg, "typ": LEASE_TYPE}, msgspec.json.encode(LEASE))
    unsigned = token.rpartition(".")[0] + "."
    for forged in (unsigned, token):
        with pytest.raises(Untrusted):
            SITE.public.verify(forged, LEASE_TYPE)


def test_a_public_key_used_as_a_shared_secret_is_refused() -> None:
    secret = OctKey.import_key(SITE.public.x)
    token = jws.serialize_compact(
        {"alg": "HS256", "typ": LEASE_TYPE}, msgspec.json.encode(LEASE), secret
    )
    with pytest.raises(Untrusted):
        SITE.public.verify(token, LEASE_TYPE)


def test_an_unencoded_payload_is_refused() -> None:
    """RFC 7797's `b64: false` would let two readers see two payloads under one signature."""
    header = {"alg": "Ed25519", "typ": LEASE_TYPE, "b64": False, "crit": ["b64"]}
    token = compact(SITE, header, msgspec.json.encode(LEASE))
    with pytest.raises(Untrusted, match="extension of JWS"):
        Verifier().lease(token, SITE.public)


@pytest.mark.parametrize(
    "changes", [{"units": 9}, {"exp": 90}, {"rid": "L2"}, {"sub": BROKER.public.kid}]
)
def test_changed_content_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Untrusted, match="signature does not hold"):
        Verifier().chain((ROOT_TOKEN, with_payload(LEAF_TOKEN, **changes)))


@settings(max_examples=60)
@given(st.integers(0, len(LEAF_TOKEN) - 1))
def test_a_truncated_claim_is_refused(length: int) -> None:
    with pytest.raises(Untrusted):
        Verifier().chain((ROOT_TOKEN, LEAF_TOKEN[:length]))


@settings(max_examples=150)
@given(st.integers(0, len(ROOT_TOKEN) - 1), st.characters(codec="ascii"))
def test_a_root_claim_with_one_character_changed_is_refused(at: int, other: str) -> None:
    """Also where base64 has bits that mean nothing: spending is counted by a token's digest."""
    changed = ROOT_TOKEN[:at] + other + ROOT_TOKEN[at + 1 :]
    if changed != ROOT_TOKEN:
        with pytest.raises(Untrusted):
            Verifier().chain((changed,))


@settings(max_examples=100)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_nonsense_is_untrusted_and_nothing_else(text: str) -> None:
    for read in (
        lambda: Verifier().chain((text,)),
        lambda: Verifier().lease(text, SITE.public),
        lambda: trust.header(text),
    ):
        with pytest.raises(Untrusted):
            read()


@pytest.mark.parametrize(
    "head",
    [
        b"[]",
        b'["alg"]',
        b'["alg","b64"]',
        b'"alg"',
        b"null",
        b'"x"',
        b"1",
        b"{}",
        b'{"alg":[]}',
        b'{"alg":{}}',
        b"\xff",
        b"{" * 5000,
    ],
)
def test_a_strange_header_is_untrusted_and_nothing_else(head: bytes) -> None:
    token = f"{text_of(head)}.{text_of(b'{}')}.{text_of(b'x' * 64)}"
    with pytest.raises(Untrusted):
        SITE.public.verify(token, LEASE_TYPE)
    with pytest.raises(Untrusted):
        Verifier().chain((token,))


def test_an_oversize_claim_is_refused_before_it_is_read() -> None:
    with pytest.raises(Untrusted, match="characters"):
        Verifier().chain(("x" * (TOKEN_CHARACTERS_MAX + 1),))


def test_a_claim_that_states_another_holder_than_it_confirms_is_refused() -> None:
    content = {**content_of(LEAF_TOKEN), "sub": SITE.public.kid}
    with pytest.raises(Untrusted, match="not the key that it shows"):
        Verifier().chain((ROOT_TOKEN, signed(BROKER, CLAIM_TYPE, content)))


def test_a_claim_that_states_another_issuer_than_signed_it_is_refused() -> None:
    content = {**content_of(LEAF_TOKEN), "iss": SITE.public.kid}
    with pytest.raises(Untrusted, match="not the key that it shows"):
        Verifier().chain((ROOT_TOKEN, signed(BROKER, CLAIM_TYPE, content)))
    for token, read in (
        (signed(BROKER, LEASE_TYPE, msgspec.to_builtins(LEASE)), Verifier().lease),
        (signed(BROKER, RECEIPT_TYPE, msgspec.to_builtins(RECEIPT)), Verifier().receipt),
    ):
        with pytest.raises(Untrusted, match="another issuer"):
            read(token, BROKER.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"units": 0},
        {"units": -3},
        {"units": 2.5},
        {"exp": 0},
        {"nbf": -1},
        {"exp": 10**15},
        {"cnf": {"jwk": {"x": "AAAA"}}},
        {"cnf": {"jwk": {"x": "ä" * 43}}},
        {"type": None},
        {"overbooking": "nan"},
        {"overbooking": -1.0},
        {"overbooking": 0.0},
        {"overbooking": 1e9},
    ],
)
def test_a_claim_that_makes_no_sense_is_refused_though_rightly_signed(
    changes: dict[str, Any],
) -> None:
    token = signed(SITE, CLAIM_TYPE, {**content_of(ROOT_TOKEN), **changes})
    with pytest.raises(Untrusted):
        Verifier().chain((token,))


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b'{"iss":"\xff"}', b'{"x":' + b"[" * 2000 + b"]" * 2000 + b"}"]
)
def test_rightly_signed_nonsense_is_untrusted_and_nothing_else(payload: bytes) -> None:
    """Anybody can sign with a key of their own: what they wrote must not reach a traceback."""
    verifier = Verifier()
    with pytest.raises(Untrusted):
        verifier.chain((SITE.sign(CLAIM_TYPE, payload),))
    with pytest.raises(Untrusted):
        verifier.chain((ROOT_TOKEN, BROKER.sign(CLAIM_TYPE, payload)))
    with pytest.raises(Untrusted):
        verifier.lease(SITE.sign(LEASE_TYPE, payload), SITE.public)
    with pytest.raises(Untrusted):
        verifier.receipt(SITE.sign(RECEIPT_TYPE, payload), SITE.public)


def test_a_first_claim_without_a_key_of_its_own_is_no_root() -> None:
    with pytest.raises(Untrusted, match="no root claim"):
        Verifier().chain((LEAF_TOKEN,))


def test_a_claim_that_was_read_once_is_not_taken_under_another_key() -> None:
    """The cache of verified claims is keyed by who has to have signed them."""
    verifier = Verifier()
    verifier.chain((ROOT_TOKEN, LEAF_TOKEN))
    own_root = trust.sign_claim(
        GUEST,
        replace(ROOT, issuer=GUEST.public.kid, holder=party_of("guest"), site=party_of("guest")),
    )
    with pytest.raises(Untrusted):
        verifier.chain((own_root, LEAF_TOKEN))


@pytest.mark.parametrize("x", ["", "AAAA", "not base64!", "A" * 44, "é" * 43, "A" * 10_000])
def test_what_is_no_key_is_untrusted(x: str) -> None:
    with pytest.raises(Untrusted):
        PublicKey(x)


def test_keys_survive_their_files_and_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "site.jwk"
    SITE.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert PrivateKey.read(path).public.kid == SITE.public.kid
    public = trust.read_public(trust.public_path(path))
    assert public.kid == SITE.public.kid
    assert "d" not in json.loads(trust.public_path(path).read_text())
    with pytest.raises(FileExistsError):
        GUEST.write(path)
    assert PrivateKey.read(path).public.kid == SITE.public.kid


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"kty":"OKP"}', "\x00"])
def test_a_key_file_that_is_none_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.jwk"
    path.write_text(text)
    with pytest.raises(Untrusted):
        PrivateKey.read(path)
    with pytest.raises(Untrusted):
        trust.read_public(path)


def test_a_public_key_or_another_curve_is_no_private_key(tmp_path: Path) -> None:
    path = tmp_path / "key.jwk"
    for jwk in (
        {"kty": "OKP", "crv": "Ed25519", "x": SITE.public.x},
        OKPKey.generate_key("X25519").as_dict(private=True),
    ):
        path.write_text(json.dumps(jwk))
        with pytest.raises(Untrusted, match="no private Ed25519 key"):
            PrivateKey.read(path)
