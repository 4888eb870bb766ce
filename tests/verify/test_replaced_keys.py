"""Statements and keys that were replaced: what a pin with a lineage tells, and single successions.

The site has replaced its key twice, the first time at `NOW`; whoever pins it as it is today knows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from shirako import trust
from shirako.cli import main
from shirako.transport.envelope import acknowledge, seal
from shirako.trust import PrivateKey
from tests.rotation.lines import GRACE, NOW, forged, line_of
from tests.verify.forged_papers import proof
from tests.verify.papers import (
    BROKER,
    GUEST,
    LEAF,
    LEASE,
    RECEIPT,
    RESELLER,
    SITE,
    SOLD,
    STRANGER,
    Papers,
    below,
    own_root,
    revocation,
    sold_out,
    ticket,
)

FIRST, SECOND, THIRD = line_of(2, SITE)
AT, LAST = "2027-01-15 08:00Z", "2027-01-15 08:16Z"
"""When the first key was replaced, and up to when what it signed is believed."""
OLD = replace(RECEIPT, tick=NOW - 60)


def pin(folder: Path, key: PrivateKey) -> str:
    file = folder / f"{key.public.kid}-{len(key.lineage)}.pub.jwk"
    file.write_bytes(key.public_file())
    return str(file)


def verify(folder: Path, told: Any, *keys: PrivateKey) -> tuple[int, Any]:
    file = folder / "statement"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    words = [word for key in keys for word in ("--key", pin(folder, key))]
    result = CliRunner().invoke(main, ["verify", str(file), "--json", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, json.loads(result.output)


def replaced(folder: Path, told: Any, *keys: PrivateKey) -> list[tuple[str, int, str]]:
    """What was signed with keys that were replaced, with which, and in words; all of it holds."""
    status, found = verify(folder, told, *keys)
    assert status == 0, found
    lines = [line for line in found["statements"] if line["kind"] == "replaced"]
    return [(line["what"], line["number"], line["says"]) for line in lines]


# Statements ---------------------------------------------------------------------------------------


def test_a_key_that_was_replaced_is_told(tmp_path: Path) -> None:
    ((*which, says),) = replaced(tmp_path, trust.sign_lease(FIRST, LEASE), THIRD)
    assert which == ["lease", 0]
    assert says == (
        f"lease is signed with the first key of {SITE.public.kid}, which was replaced at {AT}; "
        f"what earlier keys signed counts if somebody was shown it by {LAST}"
    )
    (one,) = replaced(tmp_path, trust.sign_lease(SECOND, LEASE), THIRD)
    assert one[:2] == ("lease", 1)
    assert one[2].startswith(f"lease is signed with key 1 of {SITE.public.kid}, which was replaced")


def test_of_a_key_in_use_nothing_is_told(tmp_path: Path) -> None:
    """Nor by a pin that is older than the key, or that knows no lineage: it can not know."""
    lease = trust.sign_lease(THIRD, LEASE)
    for known in (FIRST, SECOND, THIRD):
        assert replaced(tmp_path, lease, known) == []
    assert replaced(tmp_path, trust.sign_lease(FIRST, LEASE), FIRST) == []


def test_it_is_told_of_every_kind_of_statement(tmp_path: Path) -> None:
    envelope = seal(FIRST, GUEST.public.kid, 7, NOW * 1000, []).decode()
    answer = acknowledge(FIRST, GUEST.public.kid, 7, NOW * 1000, ()).decode()
    revoked = replace(revocation(), digest=trust.digest(ticket()[0]), tick=NOW)
    told = Papers(receipt=trust.sign_receipt(FIRST, OLD)).told(
        revocation=trust.sign_revocation(FIRST, revoked), envelope=envelope, acknowledgement=answer
    )
    found = replaced(tmp_path, told, THIRD)
    kinds = ["claim d1", "lease", "receipt", "revocation", "envelope", "acknowledgement"]
    assert [(what, number) for what, number, _ in found] == [(kind, 0) for kind in kinds]
    assert [one[:2] for one in replaced(tmp_path, proof(sold_out(*SOLD)), THIRD)] == [
        ("claim d1", 0)
    ]


def test_brokers_are_told_of_as_sites_are(tmp_path: Path) -> None:
    """A chain's links are signed by different actors; each is held to its own pin."""
    _, heir = line_of(1, BROKER)
    extension = replace(LEAF, jti="t2", extends="t1")
    chains = [ticket(), below(ticket()[:2], RESELLER, extension)]
    found = replaced(tmp_path, chains, THIRD, heir)
    assert [what for what, *_ in found] == ["claim d1", "claim m1"]  # each once
    root = own_root(SECOND, "site")
    assert [one[:2] for one in replaced(tmp_path, [root], THIRD)] == [("claim d1", 1)]


def test_what_an_old_key_signs_too_late_is_refused(tmp_path: Path) -> None:
    """It says itself that it was made when nobody believed that key any more."""
    late = replace(RECEIPT, tick=NOW + GRACE + 1)
    status, told = verify(tmp_path, trust.sign_receipt(FIRST, late), THIRD)
    assert status == 1
    assert "receipt: signed with the first key of" in told["problem"]
    envelope = seal(FIRST, GUEST.public.kid, 7, (NOW + GRACE + 1) * 1000, []).decode()
    assert verify(tmp_path, envelope, THIRD)[0] == 1
    just = replace(RECEIPT, tick=NOW + GRACE)
    assert len(replaced(tmp_path, trust.sign_receipt(FIRST, just), THIRD)) == 1


def test_a_second_line_of_keys_is_refused(tmp_path: Path) -> None:
    """Who stole the first key names a successor of its own: the pin knows another one."""
    *_, thief = line_of(1, SITE)
    status, told = verify(tmp_path, trust.sign_lease(thief, LEASE), THIRD)
    assert status == 1
    assert f"lease: {SITE.public.kid} has two keys 1" in told["problem"]


# Successions --------------------------------------------------------------------------------------


def test_a_succession_says_what_it_states(tmp_path: Path) -> None:
    token = SECOND.lineage[0]
    for keys, trusted in (((), False), ((FIRST,), True), ((THIRD,), True)):
        status, told = verify(tmp_path, token, *keys)
        assert status == 0
        step, root, *others = told["statements"]
        assert (step["number"], step["since"], step["until"]) == (1, NOW, NOW + GRACE)
        assert (step["actor"], step["trusted"]) == (SITE.public.kid, trusted)
        kid = trust.PublicKey(SECOND.x).kid
        assert step["says"].startswith(
            f"succession 1: from {AT} on {SITE.public.kid} signs with the key {kid}; what earlier"
        )
        assert root["kid"] == SITE.public.kid
        assert ("which you trust" in root["says"]) == trusted
        assert ("as the succession itself states: compare it" in root["says"]) != trusted
        assert [line["kind"] for line in others] == []


def test_a_later_succession_needs_the_keys_before_it(tmp_path: Path) -> None:
    token = THIRD.lineage[1]
    for keys in ((), (FIRST,)):
        status, told = verify(tmp_path, token, *keys)
        assert status == 2
        assert "succession 2 is signed by the key before it" in told["problem"]
    for key in (SECOND, THIRD):
        status, told = verify(tmp_path, token, key)
        assert status == 0
        assert told["statements"][0]["number"] == 2


@pytest.mark.parametrize(
    ("token", "key", "why"),
    [
        (SECOND.lineage[0], BROKER, "none that you trust"),
        (forged(SITE), THIRD, "has two keys 1"),
        (forged(SITE, number=0), FIRST, "out of order"),
        (forged(SITE, number=-5), THIRD, "out of order"),
        (forged(STRANGER, identity=SITE.public.kid), FIRST, "names another key|another actor"),
        (forged(SECOND, until=NOW - 5), SECOND, "ends what came before it"),
        (forged(SITE, x="AAAA"), FIRST, "not an Ed25519 public key"),
        (SECOND.lineage[0][:-4] + "AAAA", FIRST, "not signed by the key before it"),
    ],
)
def test_a_succession_that_does_not_hold_is_refused(
    tmp_path: Path, token: str, key: PrivateKey, why: str
) -> None:
    status, told = verify(tmp_path, token, key)
    assert (status, told["statements"]) == (1, [])
    assert any(part in told["problem"] for part in why.split("|")), told["problem"]
