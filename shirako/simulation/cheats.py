"""Brokers that do not keep to the rules: they sell what they have not got, and sell it twice.

What they cite of their sites' accounts is what shows them to have, or not: some cite what they
know, as honest brokers do, and some what suits them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from shirako.actors.accounts import Accounts, Store
from shirako.actors.broker import Broker
from shirako.core.account import START, Citation
from shirako.core.broker import Allocate, BrokerLease, Grant
from shirako.core.claims import Party
from shirako.core.machine import Me
from shirako.core.policy import Allocation, Declined, Demanded, Given, Piece, Share
from shirako.simulation.chance import Stream

HABITS = ("what it knows", "what it knows", "nothing", "less", "what nobody has written")
"""What a broker cites that sells too much; it keeps to it."""


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


class Pretended(Accounts):
    """Follows accounts as they are, and cites something else of them."""

    def __init__(self, store: Store, habit: str, source: Stream) -> None:
        super().__init__(store)
        self._habit = habit
        self._source = source
        self._cited: list[Citation] = [START]

    def place(self, parent: str) -> Citation:
        place = super().place(parent)
        match self._habit:
            case "nothing":
                return START
            case "less":
                self._cited.append(place)
                return self._source.choice([one for one in self._cited if one <= place])
            case "what nobody has written":
                return Citation(place.volume, place.number + 1, "f" * 64)
        return place


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
        """`source` chooses when it cheats, and how."""
        super().__init__(me, suppliers, guests, policy)
        self._source = source
        self.accounts = Pretended(self._note, source.choice(HABITS), source)

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
