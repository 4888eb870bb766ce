"""Envelopes: verified before they are read, and refused whole or message by message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirako.core import messages
from shirako.core.messages import MESSAGE_BYTES_MAX, Close
from shirako.transport.envelope import (
    ENVELOPE_BYTES_MAX,
    MESSAGES_MAX,
    Opened,
    Refusal,
    Rejected,
    acknowledge,
    open_envelope,
    read_acknowledgement,
    seal,
)
from shirako.trust import (
    ACKNOWLEDGEMENT_TYPE,
    CLAIM_TYPE,
    ENVELOPE_TYPE,
    PrivateKey,
    PublicKey,
    Untrusted,
)
from tests.core.cast import key_of
from tests.core.tokens import compact

NOW_MS, SKEW_MS = 1_000_000, 30_000
BROKER, GUEST, STRANGER = key_of("broker"), key_of("guest"), key_of("stranger")
KNOWN = {GUEST.public.kid: GUEST.public}
CLOSE = messages.encode(Close(rid="L1", holder="g", n=1, ticket=()))


def sealed(
    said: list[bytes],
    *,
    key: PrivateKey = GUEST,
    to: PublicKey = BROKER.public,
    sent_ms: int = NOW_MS,
) -> bytes:
    return seal(key, to.kid, 7, sent_ms, said)


def opened(data: bytes, known: dict[str, PublicKey] | None = None) -> Opened:
    return open_envelope(
        data, BROKER.public.kid, NOW_MS, SKEW_MS, KNOWN if known is None else known
    )


def rejection(data: bytes) -> Rejected:
    with pytest.raises(Rejected) as caught:
        opened(data)
    return caught.value


def handmade(key: PrivateKey, body: object, **head: Any) -> bytes:
    """An envelope with any content, rightly signed by `key`."""
    return key.sign(ENVELOPE_TYPE, msgspec.json.encode(body), with_key=True).encode()


def test_what_was_sealed_is_opened() -> None:
    read = opened(sealed([CLOSE, CLOSE]))
    assert (read.sender.kid, read.n, read.sent_ms) == (GUEST.public.kid, 7, NOW_MS)
    assert read.messages == [messages.decode(CLOSE)] * 2


def test_a_sender_that_is_not_pinned_shows_its_key() -> None:
    """A site needs no list of guests: the header's key says who speaks, tickets say what for."""
    assert opened(sealed([CLOSE], key=STRANGER)).sender.kid == STRANGER.public.kid


def test_for_a_pinned_sender_the_pinned_key_counts_not_the_one_shown() -> None:
    body = {"iss": GUEST.public.kid, "aud": BROKER.public.kid, "n": 1, "t": NOW_MS, "messages": []}
    header = {
        "alg": "Ed25519",
        "typ": ENVELOPE_TYPE,
        "kid": GUEST.public.kid,
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": STRANGER.public.x},
    }
    forged = compact(STRANGER, header, body).encode()
    assert rejection(forged).kind == "signature"
    with pytest.raises(Rejected) as caught:
        opened(forged, {})
    assert caught.value.kind == "signature"
    assert "not the one it names" in str(caught.value)


def test_an_unknown_key_that_is_not_shown() -> None:
    header = {"alg": "Ed25519", "typ": ENVELOPE_TYPE, "kid": STRANGER.public.kid}
    found = rejection(compact(STRANGER, header, {}).encode())
    assert (found.status, found.kind) == (401, "signature")
    assert "does not show it" in str(found)


def test_the_sender_inside_has_to_be_the_signer() -> None:
    body = {
        "iss": BROKER.public.kid,
        "aud": BROKER.public.kid,
        "n": 1,
        "t": NOW_MS,
        "messages": [],
    }
    found = rejection(handmade(GUEST, body))
    assert (found.status, found.kind) == (401, "signature")


def test_wrong_audience() -> None:
    found = rejection(sealed([CLOSE], to=STRANGER.public))
    assert (found.status, found.kind) == (403, "audience")


@pytest.mark.parametrize("apart_ms", [SKEW_MS + 1, -SKEW_MS - 1, 10**12])
def test_stale_or_from_the_future(apart_ms: int) -> None:
    found = rejection(sealed([CLOSE], sent_ms=NOW_MS + apart_ms))
    assert (found.status, found.kind) == (403, "stale")
    assert "set the clocks" in str(found)


@pytest.mark.parametrize("apart_ms", [SKEW_MS, -SKEW_MS, 0])
def test_within_the_declared_skew(apart_ms: int) -> None:
    assert opened(sealed([CLOSE], sent_ms=NOW_MS + apart_ms)).sent_ms == NOW_MS + apart_ms


def test_oversize_envelopes_and_too_many_messages() -> None:
    assert rejection(b"x" * (ENVELOPE_BYTES_MAX + 1)).kind == "oversize"
    assert len(opened(sealed([CLOSE] * MESSAGES_MAX)).messages) == MESSAGES_MAX
    found = rejection(sealed([CLOSE] * (MESSAGES_MAX + 1)))
    assert (found.status, found.kind) == (413, "oversize")


def test_an_oversize_message_is_refused_alone() -> None:
    large = messages.encode(Close(rid="x" * MESSAGE_BYTES_MAX, holder="g", n=1, ticket=()))
    one, two, three = opened(sealed([CLOSE, large, CLOSE])).messages
    assert one == three == messages.decode(CLOSE)
    assert isinstance(two, Refusal)
    assert (two.index, two.code, two.retry) == (1, "oversize", False)


@pytest.mark.parametrize(
    "strange",
    [
        b'{"is":"ModifyLease","rid":"L1","holder":"g","n":1}',
        b'{"is":"Close"}',
        b"[]",
        b"null",
        b"1e999",
        b'"\xff\xfe"',
        b'{"is":"Close","rid":"\xff","holder":"g","n":1,"ticket":[]}',
        b'{"is":"Close","rid":"L1","holder":"g","n":' + b"9" * 5000 + b',"ticket":[]}',
    ],
    ids=range(8),
)
def test_a_message_that_can_not_be_read_is_refused_alone(strange: bytes) -> None:
    """An unknown type or a broken message does not harm its neighbours in the envelope."""
    one, two, three = opened(sealed([CLOSE, strange, CLOSE])).messages
    assert one == three == messages.decode(CLOSE)
    assert isinstance(two, Refusal)
    assert (two.index, two.code, two.retry) == (1, "malformed", False)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        {"iss": "x", "aud": "y", "n": 1, "t": "soon", "messages": []},
        {"iss": "x", "aud": "y", "n": 1, "t": 2, "messages": {}},
        {"iss": "x", "aud": "y", "n": 1.5, "t": 2, "messages": []},
    ],
)
def test_a_signed_body_that_is_no_envelope(body: object) -> None:
    found = rejection(handmade(GUEST, body))
    assert (found.status, found.kind) == (400, "malformed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"iss":"x',
        b'{"iss":"\xff","aud":"y","n":1,"t":2,"messages":[]}',
        b'{"iss":"x","aud":"y","n":1,"t":2,"messages":[{"is":"\\ud800"}]}',
        b'{"x":' + b"[" * 9000 + b"]" * 9000 + b"}",
    ],
    ids=range(5),
)
def test_a_signed_body_that_is_no_json(body: bytes) -> None:
    """Anybody can sign with a key of their own: what they wrote must not reach a traceback."""
    data = STRANGER.sign(ENVELOPE_TYPE, body, with_key=True).encode()
    assert (rejection(data).status, rejection(data).kind) == (400, "malformed")


def test_bytes_that_are_not_ascii() -> None:
    assert rejection(b"\xff.\xfe.\xfd").kind == "malformed"


def test_another_type_of_signed_statement_is_no_envelope() -> None:
    assert rejection(GUEST.sign(CLAIM_TYPE, b"{}").encode()).kind == "signature"


ENVELOPE = sealed([CLOSE])


@settings(max_examples=60)
@given(st.integers(0, len(ENVELOPE) - 1))
def test_truncated(length: int) -> None:
    assert rejection(ENVELOPE[:length]).kind in ("signature", "malformed")


@settings(max_examples=150)
@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_a_flipped_byte(at: int, flip: int) -> None:
    changed = bytearray(ENVELOPE)
    changed[at] ^= flip
    try:
        read = opened(bytes(changed))
    except Rejected:
        return
    assert read.messages == [messages.decode(CLOSE)]  # spare bits of base64's last character


@settings(max_examples=150)
@given(st.binary(max_size=300) | st.text(alphabet="eyJ.AbQ=_-", max_size=80).map(str.encode))
def test_nonsense_is_rejected_and_nothing_else(data: bytes) -> None:
    assert rejection(data).kind in ("signature", "malformed")


header_values = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3))


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "jwk", "crit", "b64", "x5c", "zip"]),
        header_values | st.dictionaries(st.sampled_from(["kty", "crv", "x"]), header_values),
    )
)
def test_any_header_is_rejected_and_nothing_else(header: dict[str, Any]) -> None:
    assert rejection(compact(STRANGER, header, {}).encode()).kind == "signature"


def test_acknowledgements_are_signed_and_say_what_was_refused() -> None:
    refused = (Refusal(1, "busy", "later", retry=True),)
    data = acknowledge(BROKER, GUEST.public.kid, 7, NOW_MS, refused)
    read = read_acknowledgement(data, BROKER.public, GUEST.public.kid, 7)
    assert read.refused == refused


def test_an_acknowledgement_of_something_else_is_untrusted() -> None:
    """Without this, whoever sits between two actors could make messages vanish."""
    me = GUEST.public.kid
    data = acknowledge(BROKER, me, 7, NOW_MS, ())
    for peer, audience, number in (
        (STRANGER.public, me, 7),
        (BROKER.public, STRANGER.public.kid, 7),
        (BROKER.public, me, 8),
    ):
        with pytest.raises(Untrusted):
            read_acknowledgement(data, peer, audience, number)
    with pytest.raises(Untrusted):
        read_acknowledgement(ENVELOPE, GUEST.public, me, 7)
    for broken in (b"", b"\xff", data[:-9], BROKER.sign(ACKNOWLEDGEMENT_TYPE, b"{}").encode()):
        with pytest.raises(Untrusted):
            read_acknowledgement(broken, BROKER.public, me, 7)
