"""Renew until told otherwise: static demand that asks for the same length again, in good time."""

from __future__ import annotations

from shirako.core.guest import GuestLease, GuestState
from shirako.core.policy import End, Extend, GoOn, Wait
from shirako_policies.static import Static

RENEW_AT = 0.5
"""Part of the latest stretch of the term after which the next one is asked for."""


class Renew:
    """Extends leases that were asked for with `renew`; treats all others as `Static` does."""

    def __init__(self) -> None:
        self._static = Static()

    def decide(self, lease: GuestLease, now: int, lead: int) -> GoOn | Wait | Extend | End:
        decision = self._static.decide(lease, now, lead)
        if not lease.renew or lease.state is not GuestState.ACTIVE or isinstance(decision, End):
            return decision
        if (
            lease.answer is not None
            and lease.answer.refused
            and lease.answer.old_end == lease.term.end
        ):
            return decision  # asked once for this end and refused: the term runs out
        stretch = lease.term.end - (lease.answer.old_end if lease.answer else lease.term.start)
        ask_at = lease.term.end - max(int(stretch * (1 - RENEW_AT)), lead + 1)
        if now < ask_at:
            return Wait(ask_at)
        return Extend(lease.term.end + max(stretch, 1))
