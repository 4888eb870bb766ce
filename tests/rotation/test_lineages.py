"""ROOTED: a lineage leads from an actor's first key to the one that it uses now, and nobody else
can make one. Each that is not whole, in order and rightly signed is refused, and told why."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shirako.core.lineage import (
    SUCCESSIONS_MAX,
    Forked,
    Retired,
    check_speaker,
    check_statement,
)
from shirako.transport.envelope import (
    Rejected,
    acknowledge,
    open_envelope,
    read_acknowledgement,
    seal,
)
from shirako.trust import (
    TOKEN_CHARACTERS_MAX,
    PrivateKey,
    PublicKey,
    Untrusted,
    lineage_in,
    lineage_of,
)
from tests.rotation.lines import GRACE, NOW, forged, line_of, shown

LINE = line_of(SUCCESSIONS_MAX)
OTHER = line_of(SUCCESSIONS_MAX)
TOKENS = LINE[-1].lineage
lengths = st.integers(0, SUCCESSIONS_MAX)


def refusal(tokens: tuple[object, ...]) -> str:
    with pytest.raises(Untrusted) as caught:
        lineage_in(tokens)
    return str(caught.value)


@given(length=lengths)
def test_who_knows_the_first_key_alone_follows_to_the_last(length: int) -> None:
    key, pinned = LINE[length], PublicKey(LINE[0].x)
    token = key.sign("t", b"{}")
    assert pinned.verify(token, "t") == b"{}"
    assert lineage_of(token) == TOKENS[:length]
    assert key.public.kid == pinned.kid
    assert len(token) < TOKEN_CHARACTERS_MAX - 1000, "there is room for a claim"


@given(length=lengths, end=lengths)
def test_only_the_key_that_a_lineage_leads_to_signs_with_it(length: int, end: int) -> None:
    assume(length != end and end > 0)
    with pytest.raises(Untrusted, match="signature does not hold"):
        LINE[0].public.verify(shown(LINE[length], TOKENS[:end]), "t")


def test_a_key_that_follows_is_not_the_actor() -> None:
    """Whoever is known by the second key is somebody else than the one with the first."""
    with pytest.raises(Untrusted, match="somebody else's"):
        PublicKey(LINE[1].x).verify(LINE[1].sign("t", b"{}"), "t")


@given(length=st.integers(1, SUCCESSIONS_MAX), kept=st.sets(st.integers(0, SUCCESSIONS_MAX - 1)))
def test_cut(length: int, kept: set[int]) -> None:
    tokens = tuple(TOKENS[place] for place in sorted(kept) if place < length)
    assume(tokens and tokens != TOKENS[: len(tokens)])
    assert "cut or out of order" in refusal(tokens)


@given(order=st.permutations(range(SUCCESSIONS_MAX)))
def test_reordered(order: list[int]) -> None:
    assume(order != sorted(order))
    assert "cut or out of order" in refusal(tuple(TOKENS[place] for place in order))


@given(place=st.integers(0, SUCCESSIONS_MAX - 1), by=st.sampled_from(["thief", "other", "later"]))
def test_forged(place: int, by: str) -> None:
    """A step that somebody else has signed than the key before it."""
    thief = {"thief": PrivateKey.generate(), "other": OTHER[place], "later": LINE[place + 1]}[by]
    step = forged(thief, identity=LINE[0].public.kid, number=place + 1)
    told = refusal((*TOKENS[:place], step))
    assert f"succession {place + 1} is" in told
    assert "not signed by the key before it" in told or "about another actor" in told


@given(place=st.integers(1, SUCCESSIONS_MAX - 1))
def test_spliced(place: int) -> None:
    """Half of one actor's lineage and half of another's."""
    told = refusal((*TOKENS[:place], *OTHER[-1].lineage[place:]))
    assert f"succession {place + 1} is not signed by the key before it" in told


def test_somebody_elses() -> None:
    mine, token = LINE[0].public, OTHER[2].sign("t", b"{}")
    with pytest.raises(Untrusted, match="somebody else's"):
        mine.verify(token, "t")
    with pytest.raises(Untrusted, match="somebody else's"):
        mine.verify(shown(LINE[0], OTHER[2].lineage), "t")


def test_about_another_actor() -> None:
    step = forged(LINE[0], identity=OTHER[0].public.kid)
    assert "succession 1 is about another actor" in refusal((step,))
    assert "about another actor" in refusal((forged(LINE[0], sub=OTHER[0].public.kid),))


def test_too_long() -> None:
    assert "at most 8" in refusal((*TOKENS, forged(LINE[-1])))
    with pytest.raises(ValueError, match="replaced 8 times"):
        LINE[-1].succeeded(NOW, NOW)
    assert "at most 1024 characters" in refusal((TOKENS[0], "a" * 1025))


@pytest.mark.parametrize("stated", [(), (7,), ("",), ("a.b.c",), ("e30.e30.",), (None,), ([],)])
def test_no_lineage_at_all(stated: tuple[object, ...]) -> None:
    assert "lineage does not hold" in refusal(stated)


@given(data=st.data(), place=st.integers(0, 2))
def test_one_character_changed(data: st.DataObject, place: int) -> None:
    tokens = list(TOKENS[:3])
    at = data.draw(st.integers(0, len(tokens[place]) - 1))
    letter = data.draw(st.sampled_from("AQgwZ09_-."))
    assume(tokens[place][at] != letter)
    tokens[place] = tokens[place][:at] + letter + tokens[place][at + 1 :]
    assert "lineage does not hold" in refusal(tuple(tokens))


def test_it_goes_on_in_time() -> None:
    step = forged(LINE[1], since=NOW - 1)
    assert "succession 2 begins before the one that it follows" in refusal((TOKENS[0], step))
    step = forged(LINE[0], since=NOW, until=NOW - 1)
    assert "ends what came before it before it begins" in refusal((step,))


@given(back=st.integers(0, 3))
def test_it_never_comes_back_to_a_key(back: int) -> None:
    step = forged(LINE[3], x=LINE[back].x)
    assert "comes back to a key that was replaced" in refusal((*TOKENS[:3], step))


def test_what_a_succession_may_not_be() -> None:
    first = forged(LINE[0], headers={"lineage": ["x"], "crit": ["lineage"]})
    assert "carries a lineage itself" in refusal((first,))
    assert "where a 'shirako-succession+jwt' is due" in refusal(
        (forged(LINE[0], headers={"typ": "shirako-claim+jwt"}),)
    )
    assert "not an Ed25519 public key" in refusal((TOKENS[0], forged(LINE[1], x="A" * 43)))


def test_the_header_is_critical() -> None:
    """Who leaves `crit` away makes a token that other readers verify with the wrong key."""
    token = shown(LINE[1], TOKENS[:1])
    assert LINE[0].public.verify(token, "t") == b"{}"
    for crit in ([], ["lineage", "kid"]):
        signed = forged(LINE[1], headers={"lineage": list(TOKENS[:1]), "crit": crit, "typ": "t"})
        with pytest.raises(Untrusted):
            LINE[0].public.verify(signed, "t")


# What two lineages of one actor mean ------------------------------------------------------------


@given(known=lengths, speaks=lengths)
def test_a_later_key_retires_those_before_it(known: int, speaks: int) -> None:
    seen = lineage_in(TOKENS[:known]) if known else None
    if speaks >= known:
        check_speaker(seen, TOKENS[:speaks])
        return
    with pytest.raises(Retired, match=f"replaced by key {speaks + 1} at tick {NOW + speaks}"):
        check_speaker(seen, TOKENS[:speaks])


@settings(max_examples=40)
@given(place=st.integers(0, SUCCESSIONS_MAX - 1), data=st.data())
def test_the_first_that_was_seen_of_a_fork_stays(place: int, data: st.DataObject) -> None:
    known = data.draw(st.integers(place + 1, SUCCESSIONS_MAX))
    other = line_of(1, LINE[place])
    with pytest.raises(Forked, match=f"has two keys {place + 1}: the one that was seen first"):
        check_speaker(lineage_in(TOKENS[:known]), other[1].lineage)
    with pytest.raises(Forked):
        check_statement(lineage_in(TOKENS[:known]), other[1].lineage, NOW)


@given(known=st.integers(1, SUCCESSIONS_MAX), signer=lengths, late=st.integers(-50, 50))
def test_what_a_retired_key_signed_expires(known: int, signer: int, late: int) -> None:
    """The succession that retired the key says until when its statements may first be shown."""
    seen, now = lineage_in(TOKENS[:known]), NOW + signer + GRACE + late
    if signer >= known or late <= 0:
        check_statement(seen, TOKENS[:signer], now)
        return
    with pytest.raises(Retired, match=f"was taken until tick {NOW + signer + GRACE}"):
        check_statement(seen, TOKENS[:signer], now)


# Envelopes ---------------------------------------------------------------------------------------


@given(length=lengths, pinned=st.booleans())
def test_envelopes_of_later_keys_come_from_the_same_actor(length: int, *, pinned: bool) -> None:
    me, sender, now_ms = OTHER[0], LINE[length], (NOW + SUCCESSIONS_MAX) * 1000
    known = {LINE[0].public.kid: LINE[0].public} if pinned else {}
    opened = open_envelope(
        seal(sender, me.public.kid, 1, now_ms, []), me.public.kid, now_ms, 30_000, known
    )
    assert (opened.sender.kid, opened.lineage) == (LINE[0].public.kid, TOKENS[:length])
    answer = acknowledge(sender, me.public.kid, 1, now_ms, ())
    assert read_acknowledgement(answer, LINE[0].public, me.public.kid, 1).iss == LINE[0].public.kid


def test_a_stranger_can_not_show_somebody_elses_lineage() -> None:
    now_ms, me = NOW * 1000, OTHER[0].public.kid
    thief = PrivateKey.generate()
    for kid in (thief.public.kid, LINE[0].public.kid):
        headers = {"lineage": list(TOKENS[:1]), "crit": ["lineage"], "kid": kid}
        data = forged(thief, headers={**headers, "typ": "shirako-envelope+jws"}).encode()
        with pytest.raises(Rejected) as caught:
            open_envelope(data, me, now_ms, 30_000, {})
        assert caught.value.kind == "signature"


def test_a_key_is_not_used_before_its_time() -> None:
    early = line_of(0)[0].succeeded(NOW + 31, NOW + 31)
    data = seal(early, OTHER[0].public.kid, 1, NOW * 1000, [])
    with pytest.raises(Rejected, match="good from") as caught:
        open_envelope(data, OTHER[0].public.kid, NOW * 1000, 30_000, {})
    assert caught.value.kind == "stale"


def test_lineages_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second token of a key costs one verification, however long its lineage is."""
    keys, calls = line_of(3), itertools.count()
    first, second = keys[3].sign("t", b"1"), keys[3].sign("t", b"2")
    pinned = PublicKey(keys[0].x)
    pinned.verify(first, "t")
    really = PublicKey.verify

    def counted(self: PublicKey, token: str, typ: str) -> bytes:
        next(calls)
        return really(self, token, typ)

    monkeypatch.setattr(PublicKey, "verify", counted)
    assert pinned.verify(second, "t") == b"2"
    assert next(calls) == 1
