"""ROOTED: claims that prove nothing buy nothing. Each forgery is made with real keys, sent to an
authority's role, refused with the right reason, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from shirako import trust
from shirako.actors.authority import Authority
from shirako.core import messages
from shirako.core.claims import Chain, Claim, Party
from shirako.core.conflict import judge
from shirako.core.delegation import Delegation
from shirako.core.terms import Term
from shirako.trust import PrivateKey, Verifier, me_of, party_of
from shirako_policies.first_fit import FirstFit

NOW = 1_800_000_000
TERM = Term(NOW, NOW + 3600)


def party(key: PrivateKey, name: str) -> Party:
    return party_of(key.public, f"http://{name}.test", name)


@dataclass
class World:
    """An authority that has delegated 4 of its 6 units to a broker; and everybody's keys."""

    site_key: PrivateKey
    broker_key: PrivateKey
    guest_key: PrivateKey
    thief_key: PrivateKey
    site: Authority
    root: str

    @property
    def guest(self) -> Party:
        return party(self.guest_key, "guest")

    def claim(self, **changes: object) -> Claim:
        """A good claim for the guest, but for `changes`."""
        good = Claim(
            jti="ticket-1",
            issuer=self.broker_key.public.kid,
            holder=self.guest,
            type="node",
            units=2,
            term=TERM,
            digest="",
            parent=trust.digest(self.root),
            reservation="r1",
        )
        return replace(good, **changes)

    def chain(self, key: PrivateKey | None = None, **changes: object) -> Chain:
        return (self.root, trust.sign_claim(key or self.broker_key, self.claim(**changes)))

    def redeem(
        self, chain: Chain, *, rid: str = "r1", key: PrivateKey | None = None, n: int = 1
    ) -> str:
        """The code that a Redeem is refused with; empty when it is taken."""
        sender = (key or self.guest_key).public
        message = messages.Redeem(
            rid=rid, holder=sender.kid, n=n, ticket=(chain,), slice="s", least_units=1
        )
        refusal = self.site.receive(sender, message, NOW)
        return refusal.code if refusal else ""


@pytest.fixture
def world() -> World:
    site_key, broker_key = PrivateKey.generate(), PrivateKey.generate()
    broker = party(broker_key, "broker")
    site = Authority(
        me_of(site_key, party(site_key, "site"), 30),
        {broker.kid: broker},
        {"node": tuple(f"n{i}" for i in range(6)), "other": ("o1",)},
        {"node": FirstFit(), "other": FirstFit()},
    )
    made = site.delegate(
        Delegation(
            id="share",
            holder=broker,
            type="node",
            units=4,
            term=Term(NOW - 10, NOW + 7200),
            chain=(),
        )
    )
    site.take_batch()
    return World(
        site_key=site_key,
        broker_key=broker_key,
        guest_key=PrivateKey.generate(),
        thief_key=PrivateKey.generate(),
        site=site,
        root=made.chain[0],
    )


def test_a_good_ticket_is_redeemed(world: World) -> None:
    assert world.redeem(world.chain()) == ""
    assert len(world.site.leases) == 1


Forge = Callable[[World], Chain]

FORGERIES: dict[str, tuple[Forge, str]] = {
    "more units than its parent": (lambda w: w.chain(units=5), "unfit"),
    "another type than its parent": (lambda w: w.chain(type="other"), "unfit"),
    "ends after its parent": (lambda w: w.chain(term=Term(NOW, NOW + 7201)), "unfit"),
    "starts before its parent": (lambda w: w.chain(term=Term(NOW - 11, NOW + 1)), "unfit"),
    "names another parent": (lambda w: w.chain(parent="0" * 64), "unfit"),
    "names no parent": (lambda w: w.chain(parent=""), "unfit"),
    "for another reservation": (lambda w: w.chain(reservation="r2"), "unfit"),
    "for no reservation": (lambda w: w.chain(reservation=""), "unfit"),
    "more overbooking than its parent": (lambda w: w.chain(overbooking=2.0), "unfit"),
    "signed by the guest itself": (
        lambda w: w.chain(w.guest_key, issuer=w.guest_key.public.kid),
        "untrusted",
    ),
    "signed by a stranger in the broker's name": (lambda w: w.chain(w.thief_key), "untrusted"),
    "its term is over": (lambda w: w.chain(term=Term(NOW - 5, NOW)), "expired"),
    "an extension redeemed as a ticket": (lambda w: w.chain(extends="ticket-0"), "unfit"),
    "the root alone": (lambda w: (w.root,), "unfit"),
    "without its root": (lambda w: w.chain()[1:], "untrusted"),
    "in the wrong order": (lambda w: w.chain()[::-1], "untrusted"),
    "a root of somebody else's making": (
        lambda w: _own_root(w, w.thief_key),
        "unfit",
    ),
    "a root that the site has not delegated": (lambda w: _own_root(w, w.site_key), "unfit"),
    "one bit of the signature changed": (
        lambda w: (w.root, w.chain()[1][:-2] + ("A" if w.chain()[1][-2] != "A" else "B") + "A"),
        "untrusted",
    ),
    "no claim at all": (lambda _w: ("a.b.c",), "untrusted"),
    "empty": (lambda _w: (), "untrusted"),
    "a chain of nine": (lambda w: (w.root, *(w.chain()[1:] * 8)), "untrusted"),
}


def _own_root(w: World, key: PrivateKey) -> Chain:
    """A root claim that `key` signs, and a ticket below it."""
    root = Claim(
        jti="mine",
        issuer=key.public.kid,
        holder=party(w.broker_key, "broker"),
        type="node",
        units=6,
        term=Term(NOW - 10, NOW + 7200),
        digest="",
        site=party(key, "site"),
    )
    token = trust.sign_claim(key, root)
    return (token, trust.sign_claim(w.broker_key, w.claim(parent=trust.digest(token))))


@pytest.mark.parametrize("what", FORGERIES)
def test_forgery_is_refused(world: World, what: str) -> None:
    forge, code = FORGERIES[what]
    assert world.redeem(forge(world)) == code
    assert not world.site.leases, "a refused ticket left a lease"
    assert not world.site.take_batch().changed, "a refused ticket changed something"


def test_stolen_ticket_is_worth_nothing(world: World) -> None:
    assert world.redeem(world.chain(), key=world.thief_key) == "stolen"
    assert world.redeem(world.chain()) == "", "the theft hurt its owner"


def test_a_jti_is_redeemed_once(world: World) -> None:
    assert world.redeem(world.chain()) == ""
    again = world.chain(reservation="r2")
    assert world.redeem(again, rid="r2") == "spent"


def test_a_voided_ticket_stays_void(world: World) -> None:
    """Rule 7: a Close that overtakes its Redeem leaves a tombstone that voids the ticket."""
    close = messages.Close(rid="r1", holder=world.guest.kid, n=2, ticket=(world.chain(),))
    assert world.site.receive(world.guest_key.public, close, NOW) is None
    assert world.redeem(world.chain(), n=1) == ""  # older than the Close: dropped
    assert world.site.leases[world.guest.kid, "r1"].state.final
    assert world.redeem(world.chain(reservation="r2"), rid="r2") == "spent"


def test_siblings_never_exceed_their_parent(world: World) -> None:
    """Each lies within the parent; together they do not (CONSERVE broken by the broker)."""
    for number in (1, 2):
        chain = world.chain(jti=f"t{number}", reservation=f"r{number}")
        assert world.redeem(chain, rid=f"r{number}") == ""
    third = world.chain(jti="t3", reservation="r3")
    assert world.redeem(third, rid="r3") == "conflict"
    (proof,) = world.site.conflicts.values()
    verdict = judge(proof, Verifier().chain)
    assert (verdict.broker.kid, verdict.sold, verdict.held) == (world.broker_key.public.kid, 6, 4)


def test_siblings_may_follow_one_another(world: World) -> None:
    """Containment is checked per instant (rule 4): what ends makes room for what begins."""
    for number, start in enumerate((NOW, NOW + 600)):
        chain = world.chain(
            jti=f"t{number}", reservation=f"r{number}", units=4, term=Term(start, start + 600)
        )
        assert world.redeem(chain, rid=f"r{number}") == ""


@pytest.mark.parametrize(
    ("properties", "keys"),
    [
        ({"host.prefix": "a\nb"}, ()),
        ({"UPPER": "x"}, ()),
        ({"big": "x" * 4097}, ()),
        ({}, ("ssh-ed25519 AAAA\nssh-ed25519 BBBB",)),
        ({}, ('command="rm" ssh-ed25519 ' + "A" * 68,)),
    ],
)
def test_bad_configuration_is_refused(
    world: World, properties: dict[str, str], keys: tuple[str, ...]
) -> None:
    sender = world.guest_key.public
    message = messages.Redeem(
        rid="r1",
        holder=sender.kid,
        n=1,
        ticket=(world.chain(),),
        slice="s",
        least_units=1,
        keys=keys,
        properties=properties,
    )
    refusal = world.site.receive(sender, message, NOW)
    assert refusal is not None
    assert refusal.code == "invalid"
    assert not world.site.leases


def test_delegations_never_exceed_the_pool(world: World) -> None:
    broker = party(world.broker_key, "broker")
    more = Delegation(
        id="more", holder=broker, type="node", units=3, term=Term(NOW, NOW + 10), chain=()
    )
    for wanted in (more, replace(more, overbooking=2.0)):  # how often it may be sold is no excuse
        with pytest.raises(Exception, match="can not be delegated"):
            world.site.delegate(wanted)
    world.site.delegate(replace(more, units=2))
