"""Tickets with one token that is no token: signatures, headers, spellings, contents.

All change the last claim of a ticket that is otherwise good.
"""

from __future__ import annotations

import json
from typing import Any

from joserfc import jws
from joserfc.jwk import OctKey

from shirako import trust
from shirako.core.claims import Chain
from shirako.trust import CLAIM_TYPE, ENVELOPE_TYPE, RECEIPT_TYPE, PrivateKey
from tests.core.tokens import bytes_of, compact, content_of, header_of, signed, text_of
from tests.verify.kit import forged_ticket
from tests.verify.papers import (
    BROKER,
    GUEST,
    RESELLER,
    SITE,
    STRANGER,
    middle,
    ticket,
)

IT = "claim 3, which calls itself 't1'"
IT_IS_NAMELESS = "claim 3: "
BROKEN = "the signature does not hold"
NO_JWS = "not a compact JWS"
NO_CLAIM = "not a claim"
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group in which Ed25519 signs."""


def leaf() -> str:
    return ticket()[-1]


def with_leaf(token: str) -> Chain:
    return (*middle(), token)


def parts() -> tuple[str, str, str]:
    header, payload, signature = leaf().split(".")
    return header, payload, signature


def with_signature(signature: str) -> Chain:
    header, payload, _ = parts()
    return with_leaf(f"{header}.{payload}.{signature}")


def with_header(**changes: Any) -> Chain:
    """Rightly signed, with other members in its header; None takes one away."""
    header = {**header_of(leaf()), **changes}
    kept = {name: value for name, value in header.items() if value is not None}
    return with_leaf(compact(RESELLER, kept, content_of(leaf())))


def with_content(**changes: Any) -> Chain:
    """Rightly signed, with other content; None takes a member away."""
    content = {**content_of(leaf()), **changes}
    kept = {name: value for name, value in content.items() if value is not None}
    return with_leaf(compact(RESELLER, header_of(leaf()), kept))


def with_text(old: str, new: str) -> Chain:
    """Rightly signed, with other text in its payload."""
    text = json.dumps(content_of(leaf()))
    if old not in text:
        raise AssertionError(f"{old} is not in {text}")
    return with_leaf(compact(RESELLER, header_of(leaf()), text.replace(old, new, 1).encode()))


def by(key: PrivateKey, **header: Any) -> Chain:
    """The same content, signed by somebody else."""
    return with_leaf(compact(key, {**header_of(leaf()), **header}, content_of(leaf())))


# Who signed ---------------------------------------------------------------------------------------


@forged_ticket("untrusted", IT, BROKEN)
def signed_by_a_stranger() -> Chain:
    return by(STRANGER, kid=STRANGER.public.kid)


@forged_ticket("untrusted", IT, BROKEN)
def signed_by_a_stranger_in_the_resellers_name() -> Chain:
    return by(STRANGER)


@forged_ticket("untrusted", IT, BROKEN)
def signed_by_the_holder_of_the_grandparent() -> Chain:
    return by(BROKER)


@forged_ticket("untrusted", IT, BROKEN)
def signed_by_the_site_itself() -> Chain:
    return by(SITE)


@forged_ticket("untrusted", IT, BROKEN)
def signed_by_its_own_holder() -> Chain:
    return by(GUEST)


@forged_ticket("untrusted", IT, BROKEN)
def jwk_in_header_swapped() -> Chain:
    """The header offers a key with which the signature does hold."""
    return by(STRANGER, jwk={"kty": "OKP", "crv": "Ed25519", "x": STRANGER.public.x})


@forged_ticket("untrusted", IT, "shows another key than signed it")
def jwk_in_header_of_somebody_else() -> Chain:
    return with_header(jwk={"kty": "OKP", "crv": "Ed25519", "x": STRANGER.public.x})


@forged_ticket("untrusted", IT, "names another key than signed it")
def kid_of_somebody_else() -> Chain:
    return with_header(kid=BROKER.public.kid)


@forged_ticket("untrusted", IT, "not the key that it shows")
def names_another_issuer_than_signed_it() -> Chain:
    return with_content(iss=BROKER.public.kid)


@forged_ticket("untrusted", IT, "not the key that it shows")
def shows_another_key_than_signed_it() -> Chain:
    return with_content(jwk={"x": BROKER.public.x})


# Algorithms and headers ---------------------------------------------------------------------------


@forged_ticket("untrusted", IT, NO_JWS)
def alg_none() -> Chain:
    header = text_of(json.dumps({"alg": "none", "typ": CLAIM_TYPE}).encode())
    return with_leaf(f"{header}.{parts()[1]}.")


@forged_ticket("untrusted", IT, BROKEN)
def alg_none_with_a_signature() -> Chain:
    return with_header(alg="none")


@forged_ticket("untrusted", IT, NO_JWS)
def alg_HS256_with_the_public_key() -> Chain:  # noqa: N802 - it is called so
    secret = OctKey.import_key(bytes_of(RESELLER.public.x).ljust(64, b"\0"))
    payload = json.dumps(content_of(leaf())).encode()
    return with_leaf(jws.serialize_compact({"alg": "HS256", "typ": CLAIM_TYPE}, payload, secret))


@forged_ticket("untrusted", IT, BROKEN)
def alg_EdDSA_which_is_deprecated() -> Chain:  # noqa: N802 - it is called so
    return with_header(alg="EdDSA")


@forged_ticket("untrusted", IT, BROKEN)
def alg_missing() -> Chain:
    return with_header(alg=None)


@forged_ticket("untrusted", IT, "the same member twice")
def alg_twice() -> Chain:
    header = json.dumps(header_of(leaf())).replace("{", '{"alg": "none", ', 1)
    return with_leaf(compact(RESELLER, header.encode(), content_of(leaf())))


@forged_ticket("untrusted", IT, f"a {RECEIPT_TYPE!r} where a {CLAIM_TYPE!r} is due")
def typ_of_a_receipt() -> Chain:
    return with_header(typ=RECEIPT_TYPE)


@forged_ticket("untrusted", IT, f"a {ENVELOPE_TYPE!r} where a {CLAIM_TYPE!r} is due")
def typ_of_an_envelope() -> Chain:
    return with_header(typ=ENVELOPE_TYPE)


@forged_ticket("untrusted", IT, f"a None where a {CLAIM_TYPE!r} is due")
def typ_missing() -> Chain:
    return with_header(typ=None)


@forged_ticket("untrusted", IT, f"where a {CLAIM_TYPE!r} is due")
def typ_in_capitals() -> Chain:
    return with_header(typ=CLAIM_TYPE.upper())


@forged_ticket("untrusted", IT, f"where a {CLAIM_TYPE!r} is due")
def typ_with_a_prefix() -> Chain:
    """RFC 7515 lets `application/` be left out; to us both spellings are not the same."""
    return with_header(typ=f"application/{CLAIM_TYPE}")


@forged_ticket("untrusted", IT, "asks for an extension of JWS")
def crit_header_unknown() -> Chain:
    return with_header(crit=["urgency"], urgency="high")


@forged_ticket("untrusted", IT, "asks for an extension of JWS")
def crit_header_empty() -> Chain:
    return with_header(crit=[])


@forged_ticket("untrusted", IT, "asks for an extension of JWS")
def crit_header_is_a_number() -> Chain:
    return with_header(crit=5)


@forged_ticket("untrusted", IT, "asks for an extension of JWS")
def crit_header_lists_lists() -> Chain:
    return with_header(crit=[[]])


@forged_ticket("untrusted", IT, "asks for an extension of JWS")
def crit_header_null() -> Chain:
    header = {**header_of(leaf()), "crit": None}
    return with_leaf(compact(RESELLER, header, content_of(leaf())))


@forged_ticket("untrusted", IT, "asks for an extension of JWS")
def payload_not_encoded() -> Chain:
    """RFC 7797: `b64: false` lets two readers see two payloads under one signature."""
    return with_header(crit=["b64"], b64=False)


@forged_ticket("untrusted", IT, "not a header: it is no JSON object")
def header_that_is_a_list() -> Chain:
    return with_leaf(compact(RESELLER, b'["alg", "Ed25519"]', content_of(leaf())))


# Signatures and spellings -------------------------------------------------------------------------


@forged_ticket("untrusted", "claim 3, which calls itself 'm1'", BROKEN)
def payload_of_another_token() -> Chain:
    header, _, signature = parts()
    return with_leaf(f"{header}.{middle()[-1].split('.')[1]}.{signature}")


@forged_ticket("untrusted", IT, BROKEN)
def units_changed_after_it_was_signed() -> Chain:
    header, _, signature = parts()
    changed = text_of(json.dumps({**content_of(leaf()), "units": 5}).encode())
    return with_leaf(f"{header}.{changed}.{signature}")


@forged_ticket("untrusted", IT, BROKEN)
def signature_of_another_token() -> Chain:
    return with_signature(ticket(units=3)[-1].split(".")[2])


@forged_ticket("untrusted", IT, BROKEN)
def signature_with_one_bit_changed() -> Chain:
    raw = bytearray(bytes_of(parts()[2]))
    raw[5] ^= 1
    return with_signature(text_of(bytes(raw)))


@forged_ticket("untrusted", IT, BROKEN)
def signature_plus_the_order_of_the_group() -> Chain:
    """S + L is S as far as the equation goes: RFC 8032 says that S has to be less than L."""
    raw = bytes_of(parts()[2])
    larger = int.from_bytes(raw[32:], "little") + ORDER
    return with_signature(text_of(raw[:32] + larger.to_bytes(32, "little")))


@forged_ticket("untrusted", IT, BROKEN)
def signature_of_zeros() -> Chain:
    return with_signature(text_of(bytes([1, *bytes(63)])))


@forged_ticket("untrusted", IT, NO_JWS)
def signature_with_trailing_bits() -> Chain:
    """The last character has four bits that mean nothing: 16 spellings of one signature."""
    signature = parts()[2]
    return with_signature(signature[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[signature[-1]])


@forged_ticket("untrusted", IT, NO_JWS)
def signature_with_padding() -> Chain:
    return with_signature(f"{parts()[2]}==")


@forged_ticket("untrusted", IT, NO_JWS)
def signature_in_the_other_alphabet() -> Chain:
    """Base64 that is not for URLs."""
    for number in range(64):
        token = ticket(jti="t1", units=1 + number % 4, extends="" if number < 4 else f"t{number}")
        signature = token[-1].rpartition(".")[2]
        if "-" in signature or "_" in signature:
            other = signature.replace("-", "+").replace("_", "/")
            return (*token[:-1], token[-1].replace(signature, other))
    raise AssertionError("no signature has a character in which the alphabets differ")


@forged_ticket("untrusted", IT, NO_JWS)
def signature_with_a_newline() -> Chain:
    signature = parts()[2]
    return with_signature(f"{signature[:40]}\n{signature[40:]}")


@forged_ticket("untrusted", IT, NO_JWS)
def newline_after_it() -> Chain:
    return with_leaf(f"{leaf()}\n")


@forged_ticket("untrusted", IT, NO_JWS)
def signature_cut() -> Chain:
    return with_leaf(leaf()[:-2])


@forged_ticket("untrusted", IT, NO_JWS)
def extra_dot() -> Chain:
    return with_leaf(f"{leaf()}.")


@forged_ticket("untrusted", IT, NO_JWS)
def two_parts() -> Chain:
    return with_leaf(leaf().rpartition(".")[0])


@forged_ticket("untrusted", IT_IS_NAMELESS, NO_JWS)
def not_base64url() -> Chain:
    header, payload, signature = parts()
    return with_leaf(f"{header}.{payload[:9]}*{payload[10:]}.{signature}")


@forged_ticket("untrusted", IT, NO_JWS)
def payload_with_padding() -> Chain:
    header, payload, _ = parts()
    return with_leaf(signed(RESELLER, f"{header}.{payload}{'=' * (-len(payload) % 4) or '='}"))


@forged_ticket("untrusted", IT, BROKEN)
def payload_with_trailing_bits() -> Chain:
    header, payload, _ = parts()
    text = json.dumps(content_of(leaf()))
    while len(text) % 3 != 1:
        text += " "
    payload = text_of(text.encode())
    last = {"A": "B", "Q": "R", "g": "h", "w": "x"}[payload[-1]]
    return with_leaf(signed(RESELLER, f"{header}.{payload[:-1]}{last}"))


@forged_ticket("untrusted", IT_IS_NAMELESS, "not a statement")
def payload_left_out() -> Chain:
    """RFC 7515, appendix F: a detached payload."""
    return with_leaf(signed(RESELLER, f"{parts()[0]}."))


@forged_ticket("untrusted", IT, "it is not ASCII")
def character_that_looks_the_same() -> Chain:
    return with_leaf(leaf().replace("e", "\N{CYRILLIC SMALL LETTER IE}", 1))


@forged_ticket("untrusted", IT_IS_NAMELESS, "a claim of 9000 characters")
def longer_than_any_claim() -> Chain:
    return with_leaf("e" * 9000)


# Contents -----------------------------------------------------------------------------------------


@forged_ticket("untrusted", IT, "the same member twice")
def duplicate_json_members() -> Chain:
    return with_text('"units": 4', '"units": 400, "units": 4')


@forged_ticket("untrusted", IT, "the same member twice")
def duplicate_json_members_spelled_in_two_ways() -> Chain:
    return with_text('"units": 4', '"\\u0075nits": 400, "units": 4')


@forged_ticket("untrusted", IT, "the same member twice")
def duplicate_json_members_in_the_holders_key() -> Chain:
    return with_text('"x": ', f'"x": "{STRANGER.public.x}", "x": ')


@forged_ticket("untrusted", IT, NO_CLAIM, "Expected `int`, got `float`")
def units_as_float() -> Chain:
    return with_text('"units": 4', '"units": 4.0')


@forged_ticket("untrusted", IT, NO_CLAIM, "Expected `int`, got `float`")
def units_with_an_exponent() -> Chain:
    return with_text('"units": 4', '"units": 4e0')


@forged_ticket("untrusted", IT, NO_CLAIM, "Expected `int`, got `bool`")
def units_true() -> Chain:
    return with_content(units=True)


@forged_ticket("untrusted", IT, NO_CLAIM, "Expected `int`, got `str`")
def units_as_text() -> Chain:
    return with_content(units="4")


@forged_ticket("untrusted", IT, "on no units")
def units_negative() -> Chain:
    return with_content(units=-4)


@forged_ticket("untrusted", IT, "on no units")
def units_none() -> Chain:
    return with_text('"units": 4', '"units": -0')


@forged_ticket("untrusted", IT, "on more than")
def units_huge() -> Chain:
    return with_content(units=10**12)


@forged_ticket("untrusted", IT, "on more than")
def units_beyond_floating_point() -> Chain:
    return with_text('"units": 4', f'"units": 4{"0" * 400}')


@forged_ticket("untrusted", IT, NO_CLAIM, "units")
def units_missing() -> Chain:
    return with_content(units=None)


@forged_ticket("untrusted", IT, NO_CLAIM, "backward")
def nbf_after_exp() -> Chain:
    content = content_of(leaf())
    return with_content(nbf=content["exp"], exp=content["nbf"])


@forged_ticket("untrusted", IT, NO_CLAIM, "empty")
def nbf_at_exp() -> Chain:
    return with_content(nbf=content_of(leaf())["exp"])


@forged_ticket("untrusted", IT, NO_CLAIM, "out of range")
def nbf_before_all_time() -> Chain:
    return with_content(nbf=-1)


@forged_ticket("untrusted", IT, NO_CLAIM, "out of range")
def exp_after_all_time() -> Chain:
    return with_content(exp=10**15)


@forged_ticket("untrusted", IT, NO_CLAIM, "Expected `int`, got `float`")
def exp_as_float() -> Chain:
    return with_content(exp=float(content_of(leaf())["exp"]))


@forged_ticket("untrusted", IT, "allows 0.5 times its units")
def overbooking_below_one() -> Chain:
    return with_content(overbooking=0.5)


@forged_ticket("untrusted", IT, "allows 1e+09 times its units")
def overbooking_beyond_reason() -> Chain:
    return with_content(overbooking=1e9)


@forged_ticket("untrusted", IT_IS_NAMELESS, NO_CLAIM, "malformed")
def overbooking_not_a_number() -> Chain:
    return with_content(overbooking=float("nan"))


@forged_ticket("untrusted", IT, "not the key that it shows")
def holder_is_another_than_it_confirms() -> Chain:
    return with_content(sub=STRANGER.public.kid)


@forged_ticket("untrusted", IT, NO_CLAIM, "cnf")
def holder_without_a_key() -> Chain:
    return with_content(cnf=None)


def with_holder(raw: bytes) -> Chain:
    return with_content(cnf={"jwk": {"kty": "OKP", "crv": "Ed25519", "x": text_of(raw)}})


@forged_ticket("untrusted", IT, "no point of the curve")
def holders_key_is_no_point_of_the_curve() -> Chain:
    return with_holder(bytes([2, *bytes(31)]))


@forged_ticket("untrusted", IT, "small order, for which anybody can sign")
def holders_key_of_small_order() -> Chain:
    return with_holder(bytes([1, *bytes(31)]))


@forged_ticket("untrusted", IT, "second spelling")
def holders_key_in_a_second_spelling() -> Chain:
    return with_holder((2**255 - 19 + 3).to_bytes(32, "little"))


@forged_ticket("untrusted", IT, "not an Ed25519 public key")
def holders_key_too_short() -> Chain:
    return with_holder(bytes(31))


@forged_ticket("untrusted", IT, "not an Ed25519 public key")
def holders_key_with_trailing_bits() -> Chain:
    x = content_of(leaf())["cnf"]["jwk"]["x"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return with_content(cnf={"jwk": {"x": x[:-1] + alphabet[alphabet.index(x[-1]) + 1]}})


@forged_ticket("untrusted", IT, NO_CLAIM, "crv")
def holders_key_on_another_curve() -> Chain:
    return with_content(cnf={"jwk": {**content_of(leaf())["cnf"]["jwk"], "crv": "X25519"}})


@forged_ticket("untrusted", IT_IS_NAMELESS, "not a statement")
def payload_nested_without_end() -> Chain:
    """Deeper than any reader follows, within the length of a claim."""
    nested = "[" * 2500 + "]" * 2500
    return with_text('"units": 4', f'"units": 4, "x": {nested}')


@forged_ticket("untrusted", IT_IS_NAMELESS, "not a statement")
def payload_that_is_not_utf_8() -> Chain:
    return with_leaf(compact(RESELLER, header_of(leaf()), b'{"jti": "\xff"}'))


@forged_ticket("untrusted", IT_IS_NAMELESS, "not a statement")
def payload_with_a_byte_order_mark() -> Chain:
    text = b"\xef\xbb\xbf" + json.dumps(content_of(leaf())).encode()
    return with_leaf(compact(RESELLER, header_of(leaf()), text))


@forged_ticket("untrusted", IT_IS_NAMELESS, "not a statement")
def two_objects_in_one_payload() -> Chain:
    text = json.dumps(content_of(leaf())).encode()
    return with_leaf(compact(RESELLER, header_of(leaf()), text + text))


@forged_ticket("untrusted", IT_IS_NAMELESS, NO_CLAIM)
def half_a_character_in_its_name() -> Chain:
    return with_text('"jti": "t1"', '"jti": "t1\\ud800"')


@forged_ticket("untrusted", IT_IS_NAMELESS, NO_CLAIM, "Expected `object`")
def payload_that_is_a_list() -> Chain:
    return with_leaf(compact(RESELLER, header_of(leaf()), b"[1]"))


assert trust.TOKEN_CHARACTERS_MAX < 9000
