"""ENDS does not rest on the demand policy: one that waits for ever or breaks ends with the term."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shirako.actors.service_manager import ServiceManager
from shirako.core.guest import GuestLease, GuestState
from shirako.core.policy import GoOn, Wait
from tests.core.cast import known, me_of
from tests.core.test_tables import guest_record


class Stubborn:
    """Never ends a lease."""

    def decide(self, lease: GuestLease, now: int, lead: int) -> GoOn | Wait:
        return Wait(now + 1000)


class Broken:
    def decide(self, lease: GuestLease, now: int, lead: int) -> GoOn | Wait:
        raise ZeroDivisionError


@pytest.mark.parametrize("policy", [Stubborn(), Broken()])
@pytest.mark.parametrize(
    "state", [GuestState.TICKETED, GuestState.LEASED, GuestState.JOINING, GuestState.ACTIVE]
)
def test_the_term_ends_a_lease_that_its_policy_would_keep(
    state: GuestState, policy: Stubborn | Broken
) -> None:
    record = replace(guest_record(state), wake=1)
    guest = ServiceManager(me_of("guest"), known("broker"), policy, joins=True)
    guest.keep("lease", record.key, record)
    guest.loaded()
    guest.woken(record.key, record.term.end - 5)
    assert guest.leases[record.key].state is state
    guest.woken(record.key, record.term.end)
    assert guest.leases[record.key].state in (GuestState.LEAVING, GuestState.CLOSE_WAIT)
