"""A revocation goes down to the brokers below: none of them sells more than the root has left."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shirako.actors import revoking
from shirako.actors.service_manager import ServiceManager
from shirako.core.guest import GuestState
from shirako.core.terms import Term
from tests.core.cast import share_of, wish
from tests.core.test_broker_chains import BROKERS, NOW, WHOLE, Tower, free


def cut(tower: Tower, units: int) -> None:
    revoking.revoke(tower.site, "d0", units, "sold", NOW, "admin")
    tower.settle()


@pytest.mark.parametrize("crashes", [False, True])
def test_all_brokers_below_sell_no_more_than_is_left(crashes: bool) -> None:
    tower = Tower()
    tower.split(4)
    for units in (3, 0, 2, 4):
        cut(tower, units)
        if crashes:
            for name in BROKERS:
                tower.crash(name)
        shares = [s for name in BROKERS for s in tower.broker(name).shares["node.small"]]
        assert [share.calendar.capacity for share in shares] == [units] * len(BROKERS)
        assert free(tower.broker("b4")) == units


def test_a_ticket_that_was_sold_far_below_is_given_up() -> None:
    tower = Tower()
    tower.split(4)
    guest = tower.roles["guest"]
    assert isinstance(guest, ServiceManager)
    b4 = tower.broker("b4").me.party
    wanted = replace(wish("L1", Term(NOW + 100, NOW + 200), units=2), broker=b4)
    guest.request(wanted, NOW, "me")
    tower.settle()
    assert guest.leases[wanted.key].state is GuestState.TICKETED
    cut(tower, 0)
    assert guest.leases[wanted.key].state is GuestState.FAILED
    assert tower.broker("b4").leases[wanted.key].grants == ()


def test_what_is_delegated_further_afterwards_has_shrunk_from_the_beginning() -> None:
    tower = Tower()
    tower.site.delegate(share_of(4, WHOLE, name="d0", to="b1"))
    tower.settle()
    cut(tower, 3)
    made = tower.broker("b1").delegate(share_of(2, WHOLE, name="d1", to="b2"))
    assert made.revoked is not None
    assert made.revoked.units == 3
    tower.settle()
    assert free(tower.broker("b2")) == 2
    cut(tower, 1)
    assert (free(tower.broker("b1")), free(tower.broker("b2"))) == (0, 1)
