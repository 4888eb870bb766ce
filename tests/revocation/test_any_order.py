"""Delegate, renew, shrink, revoke, redeem, extend, close, drain and crash in any order.

What the site and the broker do is held against a reference that knows four things: how much is left
of each delegation, what is redeemed of it and when, which leases live, and which units are out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shirako.actors import revoking
from shirako.core.terms import Term
from shirako.trust import digest
from tests.core.cast import SKEW
from tests.scenarios.stage import Stage

UNITS = 6
LAST = 1200
LIVE = ("Redeeming", "Priming", "Active")

amounts = st.sampled_from((0, 0, 1, 2, 3, UNITS))
leases = st.integers(0, 7)
ticks = st.integers(1, 90)
REQUEST = st.tuples(st.just("request"), st.integers(1, 3), st.sampled_from((0, 0, 0, 20)), ticks)
CUT_UNHEARD = st.tuples(st.just("cut_unheard"), amounts)
DRAIN = st.tuples(st.just("drain"), st.sampled_from((1, 1, 2, 3)))
STEPS = st.one_of(
    REQUEST,
    REQUEST,
    REQUEST,
    CUT_UNHEARD,
    CUT_UNHEARD,
    DRAIN,
    st.tuples(st.just("undrain"), st.sampled_from((1, 2, 3))),
    st.tuples(st.just("extend"), leases, ticks),
    st.tuples(st.just("close"), leases),
    st.tuples(st.just("cut"), amounts, st.booleans()),
    st.tuples(st.just("renew"), st.integers(50, 300)),
    st.tuples(st.just("crash"), st.sampled_from(("site", "broker", "guest"))),
    st.tuples(st.just("time"), ticks),
)


@dataclass
class Reference:
    """What must hold, by itself."""

    left: dict[str, int] = field(default_factory=dict)
    """Digest of a root claim -> units that may be redeemed below it."""
    spent: dict[str, dict[str, tuple[Term, int]]] = field(default_factory=dict)
    """The same -> `jti` -> when, and how many units."""
    living: dict[str, Term] = field(default_factory=dict)
    out: set[str] = field(default_factory=set)

    def redeemed(self, root: str, term: Term) -> int:
        """The most units at any instant of a term."""
        spans = [(t, n) for t, n in self.spent.get(root, {}).values() if t.meets(term)]
        instants = [term.start, *(t.start for t, _ in spans if t.start > term.start)]
        return max(sum(n for t, n in spans if t.start <= at < t.end) for at in instants)


class Play:
    """One stage, and the reference beside it."""

    def __init__(self) -> None:
        self.stage = Stage([f"n{n}" for n in range(1, UNITS + 1)])
        self.known = Reference()
        self.names: list[str] = []
        self.stage.delegate(UNITS, Term(90, 300))
        self.stage.tick(100)
        self.look()

    def do(self, step: tuple[Any, ...]) -> None:
        what, *details = step
        getattr(self, f"_{what}")(*details)
        if what == "cut_unheard":
            return  # nobody has been told: what comes next is under way already
        self.look()
        self.stage.settle()
        self.look()
        self.look_at_rest()

    def _request(self, units: int, wait: int, ticks: int) -> None:
        name = f"L{len(self.names)}"
        self.names.append(name)
        start = self.stage.now + wait
        self.stage.request(name, units, Term(start, start + ticks))

    def _extend(self, number: int, ticks: int) -> None:
        for name in self._named(number):
            if self.stage.state("guest", name) == "Active":
                self.stage.extend(name, self.stage.record("guest", name).term.end + ticks)

    def _close(self, number: int) -> None:
        for name in self._named(number):
            self.stage.close(name)

    def _cut_unheard(self, units: int) -> None:
        self._cut(units, closes=False)
        self.stage.crash("site")

    def _renew(self, ticks: int) -> None:
        latest = max(one.term.end for one in self.stage.site.delegations.values())
        if latest + ticks < LAST:
            end, now = latest + ticks, self.stage.now
            self.stage.turn("site", lambda site: revoking.renew(site, "d1", end, None, now))

    def _drain(self, number: int) -> None:
        self.known.out.add(f"n{number}")
        self.stage.turn("site", lambda site: site.drain(f"n{number}", "a new disk"))

    def _undrain(self, number: int) -> None:
        self.known.out.discard(f"n{number}")
        self.stage.turn("site", lambda site: site.undrain(f"n{number}", self.stage.now))

    def _crash(self, actor: str) -> None:
        self.stage.crash(actor)

    def _time(self, ticks: int) -> None:
        self.stage.tick(self.stage.now + ticks)

    def _named(self, number: int) -> list[str]:
        return self.names[number : number + 1]

    def _cut(self, units: int, closes: bool) -> None:
        live = [
            one for one in self.stage.site.delegations.values() if one.term.end > self.stage.now
        ]
        effect = self.stage.turn(
            "site",
            lambda site: revoking.revoke(
                site, "d1", units, "why not", self.stage.now, "admin", close_leases=closes
            ),
        )
        if effect is None:
            return
        for one in live:
            self.known.left[digest(one.chain[0])] = units
        if closes:
            for lease in effect.leases:
                self.known.living.pop(lease.id, None)

    # What must hold ---------------------------------------------------------------------------

    def look(self) -> None:
        """After each turn: what the site gave, and what it took from nobody."""
        site, known = self.stage.site, self.known
        for one in site.delegations.values():
            known.left.setdefault(digest(one.chain[0]), one.units)
        for lease in site.leases.values():
            if lease.state.value not in LIVE:
                self._over(lease)
                continue
            for spent in lease.spent:
                root = spent.ancestors[0].digest
                mine = known.spent.setdefault(root, {})
                if spent.jti not in mine:
                    mine[spent.jti] = (spent.term, spent.units)
                    ahead = Term(max(spent.term.start, self.stage.now), spent.term.end)
                    assert known.redeemed(root, ahead) <= known.left[root], "too much is redeemed"
            for a in lease.live:
                fresh = known.living.get(lease.id) is None
                assert not (fresh and a.unit in known.out), "a drained unit is handed out"
            if lease.state.value == "Active":
                known.living[lease.id] = lease.term
        for name, term in known.living.items():
            lives = self.stage.state("site", name) in LIVE
            asked = self.stage.state("guest", name) in ("CloseWait", "Leaving", "Closed")
            assert lives or asked or self.stage.now >= term.end, f"{name} was ended by nobody"

    def _over(self, lease: Any) -> None:
        for spent in lease.spent:
            self.known.spent.get(spent.ancestors[0].digest, {}).pop(spent.jti, None)

    def look_at_rest(self) -> None:
        """All has been said: everybody knows what was taken back, and a crash changes nothing."""
        stage = self.stage
        gone = {one.id for one in stage.site.delegations.values() if not self._left(one) > 0}
        for lease in stage.broker.leases.values():
            out_of = {grant.delegation for grant in lease.grants}
            if out_of and out_of <= gone and lease.state.value == "Ticketed":
                # what was redeemed before goes on, also while it waits for units
                waits = stage.state("site", lease.id) in LIVE
                assert waits or stage.state("guest", lease.id) not in ("Ticketed", "Redeeming")
        for name in self.names:
            guest, site = stage.record("guest", name), stage.record("site", name)
            if guest is not None and guest.state.value == "Active":
                assert guest.revoked == site.revoked
        for held in stage.broker.delegations.values():
            if held.id in stage.site.delegations and held.term.end > stage.now:
                share = stage.broker.share(held.id)
                assert share is not None
                assert share.calendar.capacity == self._left(stage.site.delegations[held.id])
        before = dict(self._calendars())
        stage.crash("broker")
        assert dict(self._calendars()) == before, "another calendar after a crash"

    def _left(self, one: Any) -> int:
        return self.known.left[digest(one.chain[0])]

    def _calendars(self) -> Iterator[tuple[str, list[int]]]:
        now = self.stage.now
        for shares in self.stage.broker.shares.values():
            for share in shares:
                term = share.calendar.term
                yield (
                    share.delegation,
                    [
                        share.calendar.free(Term(tick, tick + 1))
                        for tick in range(max(now, term.start), term.end, 7)
                    ],
                )

    def end(self) -> None:
        """ENDS: when all terms are over, all leases are, and all units are the site's."""
        self.stage.settle()
        for unit in sorted(self.known.out):
            self.do(("undrain", int(unit[1:])))
        for tick in range(self.stage.now, LAST + 700, 50):
            self.stage.tick(tick + SKEW)
            self.stage.settle()
        for role in self.stage.roles.values():
            assert all(lease.state.final for lease in role.leases.values())
        assert all(unit.idle for unit in self.stage.site.units.values())


@settings(max_examples=100)
@given(st.lists(STEPS, min_size=8, max_size=30))
def test_what_was_taken_back_buys_nothing_and_takes_nothing_away(
    steps: list[tuple[Any, ...]],
) -> None:
    play = Play()
    for step in steps:
        play.do(step)
    play.end()
