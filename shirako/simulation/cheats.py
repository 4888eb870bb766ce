"""Brokers that do not keep to the rules: they sell what they have not got, and sell it twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from shirako.actors.broker import Broker
from shirako.core.broker import Allocate, BrokerLease, Grant
from shirako.core.claims import Party
from shirako.core.machine import Me
from shirako.core.policy import Allocation, Declined, Demanded, Given, Piece, Share
from shirako.simulation.chance import Stream


class Greedy:
    """Says yes to whatever one of its delegations could hold if it were not sold yet."""

    def decide(
        self, shares: Mapping[str, Sequence[Share]], requests: Sequence[Demanded], now: int
    ) -> Iterator[Given | Declined]:
        for request in requests:
            for share in shares.get(request.type, ()):
                fits = request.units <= share.calendar.capacity
                if fits and share.calendar.term.holds(request.term):
                    piece = Piece(share.delegation, request.term, request.units)
                    yield Given(units=request.units, pieces=(piece,))
                    break
            else:
                yield Declined(code="unavailable", reason="not even we would sell that")


class CheatingBroker(Broker):
    """Books nothing, and signs claims that it has signed before or that are void."""

    def __init__(
        self,
        me: Me,
        suppliers: dict[str, Party],
        guests: dict[str, Party],
        policy: Allocation,
        source: Stream,
    ) -> None:
        """`source` chooses when it cheats."""
        super().__init__(me, suppliers, guests, policy)
        self._source = source

    def _book(self, grant: Grant) -> None:
        """As if there were always enough."""
        share = self.share(grant.delegation)
        if share is not None:
            share.calendar.restore(grant.units, grant.term)

    def _grant(self, lease: BrokerLease, asked: Allocate, number: int, piece: Piece) -> Grant:
        """Now and then with the number of a claim that was issued for somebody else."""
        if self._source.random() < 0.2:
            others = [other for other in self.leases.values() if other.grants]
            if others:
                lease = replace(lease, asked=self._source.choice(others).asked)
        return super()._grant(lease, asked, number, piece)

    def carry_out(self, key: Any, effect: Any, now: int) -> None:
        """Nothing is ever given back: nothing was ever taken."""
        if isinstance(effect, Allocate):
            super().carry_out(key, effect, now)
