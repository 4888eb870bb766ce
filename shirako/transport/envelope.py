"""Signed envelopes: many messages to one peer, under one signature; and their acknowledgements.

The bytes that are sent are signed, and the bytes that arrive are verified before they are parsed.
Each attempt to send is sealed afresh with a new number and time. The acknowledgement is signed as
well: without that, whoever sits between two actors could make messages vanish.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from shirako.core import messages
from shirako.core.conflict import Conflict
from shirako.core.messages import Message
from shirako.lineage import HEADER
from shirako.trust import (
    ACKNOWLEDGEMENT_TYPE,
    ENVELOPE_TYPE,
    PrivateKey,
    PublicKey,
    Untrusted,
    header,
    lineage_in,
    lineage_of,
)

ENVELOPE_BYTES_MAX = 1024 * 1024
MESSAGES_MAX = 512
REASON_CHARACTERS_MAX = 400
"""Of why something is refused: it may repeat what was sent."""


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of an envelope was not taken. `retry`: it may be sent again, unchanged."""

    index: int
    code: str
    reason: str
    retry: bool = False
    conflict: Conflict | None = None
    """What shows that the broker of the refused ticket sold more than it holds."""


class _Envelope(msgspec.Struct, frozen=True):
    iss: str
    aud: str
    n: int
    t: int
    """Milliseconds since the Unix epoch, at which it was sealed."""
    messages: list[msgspec.Raw]


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of envelope `n`: all messages that are not refused are durable."""

    iss: str
    aud: str
    n: int
    t: int
    refused: tuple[Refusal, ...] = ()


class Opened(msgspec.Struct, frozen=True):
    """An envelope whose signature held and that was meant for us."""

    sender: PublicKey
    n: int
    sent_ms: int
    messages: list[Message | Refusal]
    """In place of a message that could not be read: its refusal."""
    lineage: tuple[str, ...] = ()
    """The successions that lead to the key that the sender used; empty: its first key."""


class Rejected(Exception):
    """The envelope as a whole is refused; `status` is the HTTP status that says so."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(detail[:REASON_CHARACTERS_MAX])
        self.status = status
        self.kind = kind
        """Short name of what is wrong, for counters: `signature`, `audience`, `stale`, ..."""


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises on bytes that their sender made up: wrong, not UTF-8, nested too deep."""

_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_acknowledgement = msgspec.json.Decoder(Acknowledgement).decode


def seal(key: PrivateKey, audience: str, n: int, now_ms: int, said: list[bytes]) -> bytes:
    """The bytes of an envelope of encoded messages.

    It carries the key, for a peer that does not know us yet.
    """
    body = _Envelope(key.public.kid, audience, n, now_ms, [msgspec.Raw(m) for m in said])
    return key.sign(ENVELOPE_TYPE, msgspec.json.encode(body), with_key=True).encode()


def open_envelope(
    data: bytes, me: str, now_ms: int, skew_ms: int, known: dict[str, PublicKey]
) -> Opened:
    """Verify, then read; raises `Rejected`. `known` are the pinned keys by thumbprint.

    A key that is not pinned is taken from the envelope's own header: it proves who holds that
    key, no more. What such a sender may do rests on the tickets it presents.
    """
    if len(data) > ENVELOPE_BYTES_MAX:
        raise Rejected(413, "oversize", f"an envelope holds at most {ENVELOPE_BYTES_MAX} bytes")
    try:
        token = data.decode("ascii")
        sender = _sender(token, known)
        payload = sender.verify(token, ENVELOPE_TYPE)
        lineage = lineage_of(token)
    except UnicodeDecodeError as error:
        raise Rejected(400, "malformed", "an envelope is a compact JWS in ASCII") from error
    except Untrusted as error:
        raise Rejected(401, "signature", str(error)) from error
    try:
        body = _decode_envelope(payload)
    except _UNREADABLE as error:
        raise Rejected(400, "malformed", f"not an envelope: {error}") from error
    if body.iss != sender.kid:
        raise Rejected(401, "signature", "the envelope names another sender than it is signed by")
    if body.aud != me:
        raise Rejected(403, "audience", f"the envelope is for {body.aud}, this is {me}")
    if abs(body.t - now_ms) > skew_ms:
        raise Rejected(
            403,
            "stale",
            f"sealed at {body.t} ms, here it is {now_ms} ms: more than {skew_ms} ms apart; "
            "set the clocks",
        )
    if lineage and (since := lineage_in(lineage).since * 1000) > now_ms + skew_ms:
        raise Rejected(
            403,
            "stale",
            f"the key that signed it is good from {since} ms on, here it is {now_ms} ms",
        )
    if len(body.messages) > MESSAGES_MAX:
        raise Rejected(413, "oversize", f"an envelope holds at most {MESSAGES_MAX} messages")
    said = [_read(i, raw) for i, raw in enumerate(body.messages)]
    return Opened(sender, body.n, body.t, said, lineage)


def _sender(token: str, known: dict[str, PublicKey]) -> PublicKey:
    stated = header(token)
    kid = stated.get("kid")
    pinned = known.get(kid) if isinstance(kid, str) else None
    if pinned is not None:
        return pinned
    if HEADER in stated:
        key = PublicKey(lineage_in(stated[HEADER]).x)
        if key.kid != kid:
            raise Untrusted("the lineage is somebody else's than the envelope names")
        return key
    jwk = stated.get("jwk")
    if not isinstance(jwk, dict) or not isinstance(jwk.get("x"), str):
        raise Untrusted("an unknown key, and the envelope does not show it")
    key = PublicKey(jwk["x"])
    if key.kid != kid:
        raise Untrusted("the key that the envelope shows is not the one it names")
    return key


def _read(index: int, raw: msgspec.Raw) -> Message | Refusal:
    if len(raw) > messages.MESSAGE_BYTES_MAX:
        limit = messages.MESSAGE_BYTES_MAX
        return Refusal(index, "oversize", f"a message holds at most {limit} bytes")
    try:
        message: Message = messages.decode(raw)
    except _UNREADABLE as error:
        return Refusal(index, "malformed", str(error)[:REASON_CHARACTERS_MAX])
    return message


def _short(refusal: Refusal) -> Refusal:
    if len(refusal.reason) <= REASON_CHARACTERS_MAX:
        return refusal
    return replace(refusal, reason=refusal.reason[:REASON_CHARACTERS_MAX])


def acknowledge(
    key: PrivateKey, audience: str, n: int, now_ms: int, refused: tuple[Refusal, ...]
) -> bytes:
    said = tuple(_short(one) for one in refused)
    body = Acknowledgement(key.public.kid, audience, n, now_ms, said)
    return key.sign(ACKNOWLEDGEMENT_TYPE, msgspec.json.encode(body)).encode()


def read_acknowledgement(data: bytes, peer: PublicKey, me: str, n: int) -> Acknowledgement:
    """The peer's acknowledgement of our envelope `n`; raises `Untrusted`."""
    try:
        body = _decode_acknowledgement(peer.verify(data.decode("ascii"), ACKNOWLEDGEMENT_TYPE))
    except _UNREADABLE as error:
        raise Untrusted(f"not an acknowledgement: {error}") from error
    if (body.iss, body.aud, body.n) != (peer.kid, me, n):
        raise Untrusted("an acknowledgement of something else")
    return body
