"""Keys are replaced in the middle of live leases: nothing of them changes, and the keys that were
replaced speak for nobody any more. The actors are real, with ledgers in memory, in one loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shirako import trust
from shirako.core import messages
from shirako.core.account import Account, Entry
from shirako.core.claims import Claim, Receipt
from shirako.core.machine import Key
from shirako.core.messages import Message
from shirako.core.terms import Term
from shirako.ledger import decode_entries
from shirako.transport.envelope import Refusal, Rejected, read_acknowledgement, seal
from shirako.trust import PrivateKey, lineage_in, lineage_of
from world import NAMES, World, until

GRACE = 600


class Rotating(World):
    """A world whose actors get new keys, and are started again with them."""

    def __init__(self) -> None:
        super().__init__()
        self.retired: dict[str, list[PrivateKey]] = {name: [] for name in NAMES}
        self._number = 0

    async def rotate(self, name: str, *, grace: int = GRACE) -> None:
        old, now = self.keys[name], self.clock.tick()
        self.retired[name].append(old)
        self.keys[name] = old.succeeded(now, now + grace)
        await self.restart(name)

    async def restart(self, name: str) -> None:
        await self.crash(name)
        await self.start(name)

    async def say(self, key: PrivateKey, to: str, *said: Message) -> list[Refusal]:
        """What of these messages is refused; raises `Rejected` when all is."""
        self._number += 1
        now_ms, me = self.clock.milliseconds(), self.parties[to]
        number = now_ms * 1000 + self._number
        data = seal(key, me.kid, number, now_ms, [messages.encode(one) for one in said])
        answer = await self.actors[to].receive(data)
        taken = read_acknowledgement(answer, self.keys[to].public, key.public.kid, number)
        return list(taken.refused)

    async def rejected(self, key: PrivateKey, to: str) -> str:
        """Why the envelope of this key is refused; empty when it is taken."""
        try:
            await self.say(key, to)
        except Rejected as error:
            return error.kind if error.status == 401 else str(error.status)
        return ""

    async def extend(self, key: Key, seconds: int) -> None:
        # who was stopped in the middle of a turn begins before it
        await self.reach("guest", key, "Active")
        end = self.actors["guest"].role.leases[key].term.end + seconds

        def act(role: Any, now: int) -> Any:
            return role.extend(key, end, end, now, "test")

        await self.actors["guest"].submit(act)
        await until(lambda: bool(self.actors["guest"].role.leases[key].term.end == end))
        await self.reach("guest", key, "Active")

    def told(self, name: str, what: str) -> list[str]:
        """The notes of this kind in the actor's audit record."""
        return [
            entry.note
            for link in self.ledgers[name].links()
            for entry in decode_entries(link.body)
            if entry.what == what
        ]


@pytest.fixture
async def world() -> AsyncIterator[Rotating]:
    made = Rotating()
    for name in NAMES:
        await made.start(name)
    await made.delegate(4)
    yield made
    for actor in made.actors.values():
        await actor.stop()


async def test_all_three_in_the_middle_of_a_lease(world: Rotating) -> None:
    key = await world.request()
    await world.reach("guest", key, "Active")
    for name in ("guest", "broker", "site"):
        await world.rotate(name)
        await world.extend(key, 600)
    lease = world.actors["guest"].role.leases[key]
    assert len(lineage_of(lease.lease)) == 1
    await world.close(key)
    for name in NAMES:
        await world.reach(name, key, "Closed")
    receipt = world.actors["guest"].role.leases[key].receipt
    assert receipt == world.actors["site"].role.leases[key].receipt
    assert len(lineage_of(receipt)) == 1
    assert not world.actors["broker"].role.leases[key].grants


@pytest.mark.parametrize("name", ["guest", "broker", "site"])
@pytest.mark.parametrize("times", [1, 3])
async def test_the_retired_key_speaks_for_nobody(world: Rotating, name: str, times: int) -> None:
    """Nor after its peers were started again, who never heard of it but by messages."""
    key = await world.request()
    await world.reach("guest", key, "Active")
    for _ in range(times):
        await world.rotate(name)
        await world.extend(key, 60)
    peers = [other for other in NAMES if other != name]
    if name == "site":
        peers.remove("broker")  # sites speak to brokers when a lease ends
    for again in (False, True):
        for peer in peers:
            if again:
                await world.restart(peer)
            for old in world.retired[name]:
                assert await world.rejected(old, peer) == "retired"
            assert await world.rejected(world.keys[name], peer) == ""
            assert world.actors[peer].counters["refused.retired"] >= times


async def test_a_peer_hears_of_it_by_an_acknowledgement(world: Rotating) -> None:
    """Who only answers is known by the key that it answers with."""
    await world.rotate("broker")
    assert await world.rejected(world.retired["broker"][0], "guest") == ""
    key = await world.request()
    await world.reach("guest", key, "Active")
    assert await world.rejected(world.retired["broker"][0], "guest") == "retired"


async def test_a_fork_is_refused_and_told_once(world: Rotating) -> None:
    key = await world.request()
    await world.reach("guest", key, "Active")
    first, now = world.keys["guest"], world.clock.tick()
    thief = first.succeeded(now, now)
    await world.rotate("guest")
    await world.extend(key, 60)
    for peer in ("broker", "site"):
        for _ in range(3):
            assert await world.rejected(thief, peer) == "forked"
        assert world.actors[peer].counters["refused.forked"] == 3
        await world.actors[peer].submit(lambda _role, _now: None)
        assert len(world.told(peer, "KeyForked")) == 1
        assert world.told(peer, "KeyReplaced") == ["speaks with key 1; those before are retired"]
        assert await world.rejected(world.keys["guest"], peer) == ""
        await world.restart(peer)
        assert await world.rejected(thief, peer) == "forked"
    await world.extend(key, 60)


async def test_what_is_pinned_decides_a_fork(world: Rotating) -> None:
    """The thief was faster: the operator says which key is right, by the file that he pins."""
    first, now = world.keys["guest"], world.clock.tick()
    thief = first.succeeded(now, now)
    assert await world.rejected(thief, "broker") == ""
    world.keys["guest"] = first.succeeded(now, now)
    assert await world.rejected(world.keys["guest"], "broker") == "forked"
    pinned = {first.public.kid: world.keys["guest"].lineage}
    role = world.actors["broker"].role
    role.lineages.pin(pinned)
    assert await world.rejected(thief, "broker") == "forked"
    assert await world.rejected(world.keys["guest"], "broker") == ""
    await world.restart("broker")
    assert await world.rejected(thief, "broker") == "forked", "it is in the ledger, too"


async def test_strangers_fill_no_ledger(world: Rotating) -> None:
    """Of an actor that we have nothing to do with no lineage is kept."""
    for _ in range(3):
        now = world.clock.tick()
        stranger = PrivateKey.generate().succeeded(now, now)
        assert await world.rejected(stranger, "site") == ""
        assert world.actors["site"].role.lineages.number(stranger.public.kid) == 0
    assert not [kind for kind, _, _ in world.ledgers["site"].load() if kind == "lineage"]


# Claims and receipts of retired keys ------------------------------------------------------------


def ticket(world: Rotating, signer: PrivateKey, rid: str, holder: str = "guest") -> Any:
    """A ticket of the broker's, signed by one of its keys, whoever has that."""
    root = world.actors["site"].role.delegations["share"].chain[0]
    now = world.clock.tick()
    claim = Claim(
        jti=f"ticket-{rid}",
        issuer=signer.public.kid,
        holder=world.parties[holder],
        type="node",
        units=1,
        term=Term(now, now + 300),
        digest="",
        parent=trust.digest(root),
        reservation=rid,
    )
    return ((root, trust.sign_claim(signer, claim)),)


async def redeem(world: Rotating, key: PrivateKey, rid: str, chains: Any) -> str:
    message = messages.Redeem(
        rid=rid, holder=key.public.kid, n=1, ticket=chains, slice="s", least_units=1
    )
    refused = await world.say(key, "site", message)
    return refused[0].code if refused else ""


@pytest.mark.parametrize(("grace", "code"), [(GRACE, ""), (-1, "retired")])
async def test_tickets_of_a_retired_key_expire(world: Rotating, grace: int, code: str) -> None:
    old = world.keys["broker"]
    first, second = ticket(world, old, "x1"), ticket(world, old, "x2")
    guest = world.keys["guest"]
    assert await redeem(world, guest, "x1", first) == "", "the site has not heard of a later key"
    now = world.clock.tick()
    world.keys["broker"] = old.succeeded(now - 10, now + grace)
    # the site hears of the key by the first ticket that it signs
    assert await redeem(world, guest, "x3", ticket(world, world.keys["broker"], "x3")) == ""
    assert await redeem(world, guest, "x2", second) == code
    assert await redeem(world, guest, "x1", first) == "", "what was redeemed stays so"


async def test_root_claims_are_those_that_the_site_has_signed(world: Rotating) -> None:
    """Who has an old key of the site can sign roots in the name of its delegations: for nothing."""
    old = world.keys["site"]
    await world.rotate("site")
    share = world.actors["site"].role.delegations["share"]
    root = trust.sign_claim(
        old,
        Claim(
            jti="share",
            issuer=old.public.kid,
            holder=world.parties["guest"],
            type="node",
            units=4,
            term=share.term,
            digest="",
            site=world.parties["site"],
        ),
    )
    guest, now = world.keys["guest"], world.clock.tick()
    leaf = Claim(
        jti="stolen",
        issuer=guest.public.kid,
        holder=world.parties["guest"],
        type="node",
        units=4,
        term=Term(now, now + 300),
        digest="",
        parent=trust.digest(root),
        reservation="x1",
    )
    assert await redeem(world, guest, "x1", ((root, trust.sign_claim(guest, leaf)),)) == "unfit"
    assert await redeem(world, guest, "x2", ticket(world, world.keys["broker"], "x2")) == ""


async def test_a_receipt_of_a_retired_key_waits_for_the_sites_own_word(world: Rotating) -> None:
    """Forged by who has the old key, it would have the broker sell what is in use."""
    key = await world.request()
    await world.reach("guest", key, "Active")
    old, now = world.keys["site"], world.clock.tick()
    (grant,) = world.actors["broker"].role.leases[key].grants
    account = Account(trust.digest(grant.chain[-2]))
    receipt = trust.sign_receipt(
        old,
        Receipt(
            jti="old",
            issuer=old.public.kid,
            holder=key[0],
            reservation=key[1],
            claims=(grant.jti,),
            units_freed=1,
            tick=now - 100,
            redeemed=True,
            final=True,
            postings=(account.post(Entry(grant.jti, grant.term.end), now),),
        ),
    )
    later = old.succeeded(now, now + GRACE)
    assert await world.say(later, "broker") == []

    async def relinquish(sender: PrivateKey) -> list[tuple[str, bool]]:
        lines = world.actors["broker"].role.leases[key].lines
        n = lines[sender.public.kid].seen + 1 if sender.public.kid in lines else 1
        message = messages.Relinquish(rid=key[1], holder=key[0], n=n, receipt=receipt)
        refused = await world.say(sender, "broker", message)
        return [(one.code, one.retry) for one in refused]

    assert await relinquish(world.keys["guest"]) == [("retired", True)]
    assert world.state("broker", key) == "Ticketed"
    assert await relinquish(later) == []
    assert world.state("broker", key) == "Closed"
    assert await relinquish(world.keys["guest"]) == []


async def test_stolen_tickets_are_worth_nothing_without_the_key_of_now(world: Rotating) -> None:
    guest, thief = world.keys["guest"], PrivateKey.generate()
    chains = ticket(world, world.keys["broker"], "x1")
    now = world.clock.tick()
    later = guest.succeeded(now, now)
    for other in (thief, thief.succeeded(now, now)):
        assert await redeem(world, other, "x1", chains) == "stolen"
    lineage = lineage_in(later.lineage)
    assert await redeem(world, later, "x1", chains) == "", "the holder, with a key that followed"
    assert await world.rejected(guest, "site") == "retired"
    record = world.actors["site"].role.leases[guest.public.kid, "x1"]
    assert record.guest == world.parties["guest"]
    assert lineage.identity == record.guest.kid
