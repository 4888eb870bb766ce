"""Static demand: hold what was asked for until its term ends, then leave in time."""

from __future__ import annotations

from shirako.core.guest import GuestLease, GuestState
from shirako.core.policy import End, GoOn, Wait

_TO_GO_ON = {GuestState.TICKETED, GuestState.LEASED, GuestState.ACTIVE_TICKETED}


class Static:
    """Redeems when the term starts, joins at once, closes `lead` ticks before the end."""

    def decide(self, lease: GuestLease, now: int, lead: int) -> GoOn | Wait | End:
        last = max(lease.term.end - lead, lease.term.start)
        if now >= last and now > lease.term.start:
            return End("the term ends")
        if lease.state is GuestState.TICKETED and now < lease.term.start:
            return Wait(lease.term.start)
        if lease.state in _TO_GO_ON:
            return GoOn()
        return Wait(last)
