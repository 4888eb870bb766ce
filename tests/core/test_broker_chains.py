"""Brokers below brokers: what one holds it may split for others, five claims deep (ROOTED)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.role import Refused, Role
from shirako.actors.service_manager import ServiceManager
from shirako.core import messages
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestState
from shirako.core.machine import HandlerEnded, Key
from shirako.core.terms import Term
from shirako_policies.static import Static
from tests.core.cast import (
    TYPE,
    key_of,
    known,
    me_of,
    open_broker,
    open_site,
    party_of,
    share_of,
    wish,
)

NOW = 100
WHOLE = Term(90, 1000)
BROKERS = ("b1", "b2", "b3", "b4")


class Tower:
    """A site, four brokers one below the other, and a guest of the lowest."""

    def __init__(self, units: int = 4) -> None:
        names = ("site", *BROKERS, "guest")
        self.roles: dict[str, Role[Any]] = {
            "site": open_site([f"n{n}" for n in range(units)], ("b1",))
        }
        for above, name, below in zip(names, BROKERS, names[2:], strict=False):
            self.roles[name] = open_broker((above,), (below,), name)
        self.roles["guest"] = ServiceManager(me_of("guest"), known("b4"), Static(), joins=False)
        self.name = {key_of(name).public.kid: name for name in self.roles}

    def broker(self, name: str) -> Broker:
        role = self.roles[name]
        assert isinstance(role, Broker)
        return role

    @property
    def site(self) -> Authority:
        role = self.roles["site"]
        assert isinstance(role, Authority)
        return role

    def split(self, units: int = 4) -> None:
        """Each gives all of it to the one below."""
        self.site.delegate(share_of(units, WHOLE, name="d0", to="b1"))
        self.settle()
        for number, (name, below) in enumerate(pairwise(BROKERS), 1):
            self.broker(name).delegate(share_of(units, WHOLE, name=f"d{number}", to=below))
            self.settle()

    def settle(self) -> None:
        """Everything that is said arrives, and every handler works."""
        moved = True
        while moved:
            moved = False
            for name, role in self.roles.items():
                role.settle(NOW)
                for kind, key, kept in list(role.kept()):
                    for kid, line in kept.lines.items():
                        for message in line.unacked:
                            moved = True
                            self._deliver(name, kind, key, kid, message)
                    for work in kept.work:
                        moved = True
                        role.handler_ended(key, HandlerEnded(now=NOW, work=work, ok=True))

    def _deliver(self, name: str, kind: str, key: Key, kid: str, message: messages.Message) -> None:
        refusal = self.roles[self.name[kid]].receive(key_of(name).public, message, NOW)
        assert refusal is None, refusal
        self.roles[name].delivered(kind, key, kid, message.n)

    def crash(self, name: str) -> None:
        """The same role again, from what it keeps."""
        old = self.broker(name)
        position = ("site", *BROKERS, "guest").index(name)
        names = ("site", *BROKERS, "guest")
        new = open_broker((names[position - 1],), (names[position + 1],), name)
        for kind, key, value in [
            *(("lease", k, v) for k, v in old.leases.items()),
            *(("delegation", d.key, d) for d in old.delegations.values()),
            *(("given", d.key, d) for d in old.given.values()),
        ]:
            new.keep(kind, key, value)
        new.loaded()
        self.roles[name] = new


def free(broker: Broker, tick: int = 150) -> int:
    return sum(
        share.calendar.free(Term(tick, tick + 1))
        for shares in broker.shares.values()
        for share in shares
    )


def test_a_lease_through_four_brokers() -> None:
    tower = Tower()
    tower.split()
    guest = tower.roles["guest"]
    assert isinstance(guest, ServiceManager)
    wanted = replace(wish("L1", Term(NOW, 200), units=2), broker=party_of("b4"))
    guest.request(wanted, NOW, "me")
    tower.settle()
    lease = guest.leases[wanted.key]
    assert lease.state is GuestState.ACTIVE
    assert [len(chain) for chain in lease.ticket] == [5]
    assert free(tower.broker("b4")) == 2
    guest.close(wanted.key, "done", NOW, "me")
    tower.settle()
    assert guest.leases[wanted.key].state is GuestState.CLOSED
    assert free(tower.broker("b4")) == 4
    assert [free(tower.broker(name)) for name in BROKERS[:3]] == [0, 0, 0]  # it is all given away


def test_what_was_given_away_is_not_sold_again_also_after_a_crash() -> None:
    """CONSERVE."""
    tower = Tower()
    tower.site.delegate(share_of(4, WHOLE, name="d0", to="b1"))
    tower.settle()
    given = tower.broker("b1").delegate(share_of(3, WHOLE, name="d1", to="b2"))
    assert tower.broker("b1").delegate(share_of(3, WHOLE, name="d1", to="b2")) == given
    assert free(tower.broker("b1")) == 1
    tower.crash("b1")
    assert free(tower.broker("b1")) == 1
    tower.settle()
    assert free(tower.broker("b2")) == 3
    with pytest.raises(Refused, match=r"the most that is free .* is 1"):
        tower.broker("b1").delegate(share_of(2, WHOLE, name="d2", to="b2"))


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (share_of(1, WHOLE, name="x", to="stranger"), "stranger"),
        (replace(share_of(1, WHOLE, name="x", to="b2"), type="other"), "unknown_type"),
        (share_of(1, Term(90, 2000), name="x", to="b2"), "too_many"),
        (share_of(1, WHOLE, name="x", to="b2", overbooking=2.0), "too_many"),
        (share_of(1, WHOLE, name="x" * 99, to="b2"), "invalid"),
    ],
)
def test_what_can_not_be_given(wanted: Delegation, code: str) -> None:
    tower = Tower()
    tower.site.delegate(share_of(4, WHOLE, name="d0", to="b1"))
    tower.settle()
    with pytest.raises(Refused) as refused:
        tower.broker("b1").delegate(wanted)
    assert refused.value.code == code


def test_a_supplier_can_not_replace_what_another_one_delegated() -> None:
    broker = open_broker(("site", "site2"), ("guest",))
    for name in ("site", "site2"):
        site = Authority(me_of(name), known("broker"), {TYPE: ("n1",)}, open_site().policies)
        made = site.delegate(share_of(1, WHOLE, name="same"))
        (push,) = made.lines[party_of("broker").kid].unacked
        refusal = broker.receive(key_of(name).public, push, NOW)
        assert (refusal.code if refusal else "") == ("" if name == "site" else "name_taken")


def test_overbooking_is_passed_on_within_what_was_allowed() -> None:
    tower = Tower()
    tower.site.delegate(share_of(4, WHOLE, name="d0", to="b1", overbooking=2.0))
    tower.settle()
    tower.broker("b1").delegate(share_of(3, WHOLE, name="d1", to="b2", overbooking=1.5))
    assert free(tower.broker("b1")) == 8 - 5  # three times 1.5, rounded up
    tower.settle()
    assert free(tower.broker("b2")) == 4
