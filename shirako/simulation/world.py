"""One simulated world: who is in it, what befalls it, and how it comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.performing import GuestPerformer, NoPerformer, Pool, SitePerformer
from shirako.actors.probing import Probing
from shirako.actors.role import TOMBSTONE_TICKS, Refused
from shirako.actors.service_manager import ServiceManager
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.policy import Assignment
from shirako.core.terms import Term
from shirako.simulation.admins import Admin
from shirako.simulation.attacks import SHADOW, Attacker, Shadow
from shirako.simulation.chance import Stream, stream
from shirako.simulation.cheats import CheatingBroker, Greedy
from shirako.simulation.clocks import Hardware, true_tick
from shirako.simulation.disk import Disk
from shirako.simulation.drivers import DirectoryDriver, GuestSideDriver, NodeDriver
from shirako.simulation.facts import Facts
from shirako.simulation.faults import Faults, Injection, Injector
from shirako.simulation.locksmith import Locksmith
from shirako.simulation.loop import Life, VirtualLoop
from shirako.simulation.network import Network
from shirako.simulation.nodes import Directory, Node
from shirako.simulation.people import Guest, wishes_of
from shirako.simulation.records import Key, SiteRecord
from shirako.simulation.restorations import Restorer
from shirako.simulation.seats import SKEW, Down, LeaseOf, Seat, Setting
from shirako.simulation.signatures import key_of
from shirako.simulation.weather import Weather
from shirako_policies.first_come import FirstCome
from shirako_policies.first_fit import FirstFit
from shirako_policies.renew import Renew

SITES = ("site1", "site2")
BROKERS = ("broker1", "broker2")
GUESTS = ("guest1", "guest2", "guest3")
CAST = (*SITES, *BROKERS, *GUESTS, SHADOW)

SETUP_TIMEOUT = 25.0
TEARDOWN_TIMEOUT = 20.0
GUEST_TIMEOUT = 20.0
PROBED_EVERY = 150.0
"""Seconds between two looks at a unit, where a site looks after its units at all."""
STORMY_SECONDS = 480.0
"""How long things go wrong."""
SETTLING_SECONDS = 240.0
"""How long after that all is to be as if nothing had gone wrong."""
ADMINS_SECONDS = STORMY_SECONDS + SETTLING_SECONDS / 2
"""How long admins look after their sites; what they have begun then has time to end."""
ENDING_SECONDS = 300.0
"""How long after the last term's end every lease is to be over: the skew, three tries of a
teardown with their pauses, the longest pause of a courier, and some air."""


FORGETTING_SECONDS = TOMBSTONE_TICKS + 4 * SKEW + 60.0
"""How long after that everybody has forgotten everything that is over."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A delegation that a site makes at the beginning, or a broker to the one below it."""

    id: str
    source: str
    broker: str
    type: str
    units: int
    ticks: int
    overbooking: float


class World:
    """Everything of one run."""

    def __init__(self, loop: VirtualLoop, seed: int, faults: Faults, only: frozenset[str] | None):
        self.loop = loop
        self.seed = seed
        self.facts = Facts(loop, {key_of(name).public.kid: name for name in CAST})
        self.injector = Injector(seed, faults, only, self._injected, loop.time)
        self.network = Network(loop, seed, self.injector, self.facts)
        source = stream(seed, "world")
        self.sites = [self._seat(n, "site") for n in SITES[: source.choice((1, 1, 1, 2))]]
        self.brokers = [self._seat(n, "broker") for n in BROKERS[: source.choice((1, 1, 2))]]
        self.guests = [self._seat(n, "guest") for n in GUESTS[: source.choice((1, 2, 2, 3))]]
        self.seats = {seat.name: seat for seat in (*self.sites, *self.brokers, *self.guests)}
        self.nodes: dict[str, Node] = {}
        self.directories: dict[str, Directory] = {}
        self.pools: dict[str, dict[str, tuple[str, ...]]] = {}
        """Site -> resource type -> its units."""
        for site in self.sites:
            self._furnish(site, source)
        self.cheats = {
            seat.name: how.choice(("oversells", "forges", "both"))
            for seat in self.brokers
            if (how := self.injector.strike("cheating", seat.name)) is not None
        }
        """Brokers that do not keep to the rules, and how."""
        self.wild: set[Key] = set()
        """Reservations that somebody makes up by hand, and nobody cares for."""
        self.attacker = Attacker(self, Shadow(self), stream(seed, "attacker"))
        self.tiers = len(self.brokers) > 1 and source.random() < 0.5
        """The second broker is below the first, and not beside it."""
        self.grants = list(self._grants(source))
        self.joins = {guest.name: source.random() < 0.5 for guest in self.guests}
        self.forgets = source.random() < 0.2
        """The run goes on until what is over is forgotten."""
        self.persons = self._persons()
        self.restorer = Restorer(self)
        self.admins = [
            Admin(
                site,
                self.nodes,
                self.restorer,
                self.facts,
                stream(seed, f"admin {site.name}"),
                stream(seed, f"plans {site.name}"),
                loop.time,
            )
            for site in self.sites
        ]
        for seat in self.seats.values():
            self._equip(seat, source)
        self.locksmith = Locksmith(self)
        self.weather = Weather(self)

    @property
    def lives(self) -> int:
        """Leases that were in use and have come to their end."""
        return sum(
            1
            for site in self.sites
            for lease in site.leases()
            if isinstance(lease, SiteRecord) and lease.redeemed and lease.final
        )

    def stream(self, name: str) -> Stream:
        """A stream of this run's own."""
        return stream(self.seed, name)

    # Furnishing -------------------------------------------------------------------------------

    def _seat(self, name: str, part: str) -> Seat:
        return Seat(self.loop, self.seed, name, part, key_of(name), self.network, self.facts)

    def _furnish(self, site: Seat, source: Stream) -> None:
        number = site.name[-1]
        small = tuple(f"n{number}{i}" for i in range(1, source.randint(4, 6) + 1))
        large = tuple(f"m{number}{i}" for i in range(1, source.choice((0, 0, 0, 2)) + 1))
        self.pools[site.name] = {"small": small, **({"large": large} if large else {})}
        for name in (*small, *large):
            self.nodes[name] = Node(self.loop, self.seed, name, self.injector, self.facts)
        directory = Directory(self.loop, f"dir{number}", self.facts)
        self.directories[site.name] = directory

    def _grants(self, source: Stream) -> Iterator[Granted]:
        """Every site gives all it has to its brokers; one broker may be below the other."""
        above = self.brokers[:1] if self.tiers else self.brokers
        for site in self.sites:
            for kind, units in self.pools[site.name].items():
                sharers = above if len(units) >= len(above) else above[:1]
                for number, broker in enumerate(sharers):
                    share = len(units) // len(sharers) + (number < len(units) % len(sharers))
                    ticks = source.choice((700, 1200, 2400))
                    overbooking = source.choice((1.0, 1.0, 1.0, 1.5))
                    name = f"{kind}.{site.name}.{broker.name}"
                    yield Granted(name, site.name, broker.name, kind, share, ticks, overbooking)
                    if self.tiers and share > 1:
                        part = source.randint(1, share - 1)
                        yield Granted(
                            f"{name}.below",
                            broker.name,
                            self.brokers[1].name,
                            kind,
                            part,
                            source.randint(200, ticks - 300),
                            source.choice((1.0, overbooking)),
                        )

    def _persons(self) -> list[Guest]:
        sellers = {grant.broker for grant in self.grants}
        brokers = [broker.party for broker in self.brokers if broker.name in sellers]
        types = sorted({kind for pools in self.pools.values() for kind in pools})
        largest = max(grant.units for grant in self.grants)
        return [
            Guest(
                seat=seat,
                nodes=self.nodes,
                facts=self.facts,
                wishes=wishes_of(self.seed, seat.name, brokers, types, largest),
                source=stream(self.seed, f"person {seat.name}"),
                now=self.loop.time,
            )
            for seat in self.guests
        ]

    def _equip(self, seat: Seat, source: Stream) -> None:
        offset, drift = 0, source.uniform(-50.0, 50.0)
        how = self.injector.strike("clock_wrong", seat.name)
        if how is not None:
            offset = how.randint(-9000, 9000)
        seat.hardware = Hardware(self.loop, offset, drift)

        def stored(writes: Any, entries: Any) -> None:
            self.facts.committed(seat.name, seat.part, seat.tick(), writes, entries)

        seat.disk = Disk(self.loop, self.seed, seat.name, self.injector, stored)
        seat.setting = self._setting(seat)
        if seat.part == "site":
            interval = source.choice((0.0, PROBED_EVERY))
            intervals = dict.fromkeys(self.pools[seat.name], interval)
            seat.begin = lambda actor: Probing(actor, intervals).start()

    def _setting(self, seat: Seat) -> Callable[[LeaseOf, Life], Setting]:
        """How each incarnation of an actor begins, with the key that is its own by then."""
        sites, brokers = _parties(self.sites), _parties(self.brokers)
        if seat.part == "broker":
            below = self.brokers[1:] if self.tiers else []
            if seat in below:
                sites = _parties(self.brokers[:1])
                below = []
            guests = _parties([*self.guests, *below])
            if self.cheats.get(seat.name) in ("oversells", "both"):
                source = stream(self.seed, f"cheat {seat.name}")
                return lambda _lease_of, _life: (
                    partial(CheatingBroker, seat.me(), sites, guests, Greedy(), source),
                    NoPerformer(),
                )
            return lambda _lease_of, _life: (
                partial(Broker, seat.me(), sites, guests, FirstCome()),
                NoPerformer(),
            )
        if seat.part == "guest":
            joins = self.joins[seat.name]
            drivers = [GuestSideDriver(self.nodes, seat.name)] if joins else []
            return lambda lease_of, _life: (
                partial(ServiceManager, seat.me(), brokers, Renew(), joins=joins),
                GuestPerformer(drivers, GUEST_TIMEOUT, lease_of),
            )
        return partial(self._site_setting, seat, brokers)

    def _site_setting(
        self, seat: Seat, brokers: dict[str, Party], lease_of: LeaseOf, _life: Life
    ) -> Setting:
        pools = self.pools[seat.name]
        names = self.facts.names
        performed = {
            kind: Pool(
                type=kind,
                units={unit: {} for unit in units},
                drivers=[
                    NodeDriver(self.nodes, names),
                    DirectoryDriver(self.directories[seat.name], names),
                ],
                setup_timeout=SETUP_TIMEOUT,
                teardown_timeout=TEARDOWN_TIMEOUT,
            )
            for kind, units in pools.items()
        }
        policies: dict[str, Assignment] = {kind: FirstFit() for kind in pools}
        opened = partial(Authority, seat.me(), brokers, pools, policies)
        return opened, SitePerformer(performed, lease_of)

    def _injected(self, injection: Injection) -> None:
        self.facts.note("FAULT", injection.name)

    # Running ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """From the first start to the end of all terms."""
        tasks = [asyncio.ensure_future(self._open(grant)) for grant in self.grants]
        for person in self.persons:
            tasks += [asyncio.ensure_future(person.live(wish)) for wish in person.wishes]
        tasks += [asyncio.ensure_future(admin.work(ADMINS_SECONDS)) for admin in self.admins]
        tasks += [
            asyncio.ensure_future(self.attacker.cheat(self.seats[name]))
            for name, how in self.cheats.items()
            if how != "oversells"
        ]
        source = stream(self.seed, "beginning")
        for seat in self.seats.values():
            seat.come_back(source.uniform(0.0, 3.0))
        weather = asyncio.ensure_future(self.weather.blow(STORMY_SECONDS))
        await asyncio.sleep(STORMY_SECONDS)
        await weather
        self.heal()
        await asyncio.sleep(SETTLING_SECONDS)
        self.facts.healed()
        for left in iter(self._seconds_left, 0.0):
            await asyncio.sleep(left)
        tasks += self.restorer.operators
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for seat in self.seats.values():
            if seat.life is not None:
                for broken in seat.life.look_through():
                    self.facts.broke(seat.name, broken)
        self.facts.ended()
        if self.forgets and not any(seat.gone for seat in self.seats.values()):
            latest = max(self._last_end(over=True) - true_tick(self.loop.now), 0)
            await asyncio.sleep(latest + FORGETTING_SECONDS)
            self.facts.forgotten()
        for seat in self.seats.values():
            for one in (seat.running, *seat.outdated):
                if one is not None:
                    one.life.end()

    def heal(self) -> None:
        """Nothing goes wrong any more, and what is broken is mended."""
        self.facts.note("world", "heals")
        self.injector.over = True
        self.network.heal()
        for seat in self.seats.values():
            seat.disk.heal()
            seat.hardware.jump_ms = 0
            if seat.running is not None and seat.running.clock.jump_ms():
                seat.running.clock.confirm()  # an operator sees that it is right again
            if seat.life is not None:
                seat.life.fuse = 0
            if seat.running is None and not seat.gone:
                seat.come_back(0.5)
        for directory in self.directories.values():
            directory.out_until = 0.0
        for node in self.nodes.values():
            if not node.reachable or node.jammed:
                node.repair(replaced=False)

    def _seconds_left(self) -> float:
        """Until every lease has to be over."""
        return max(self._last_end() + ENDING_SECONDS - true_tick(self.loop.now), 0.0)

    def _last_end(self, *, over: bool = False) -> int:
        """The last tick that any lease may reach, or that one which is over might have reached."""
        leases = (lease for seat in self.seats.values() for lease in seat.leases())
        ends = (
            lease.term.end
            for lease in leases
            if lease.key not in self.wild and (over or not lease.final)
        )
        return max(ends, default=0)

    async def _open(self, grant: Granted) -> None:
        """Delegate, again and again until it is done."""
        giver, broker = self.seats[grant.source], self.seats[grant.broker]
        await asyncio.sleep(3.0)

        def act(role: Authority | Broker, now: int) -> None:
            made = role.delegations if isinstance(role, Authority) else role.given
            if grant.id not in made:
                role.delegate(
                    Delegation(
                        id=grant.id,
                        holder=broker.party,
                        type=grant.type,
                        units=grant.units,
                        term=Term(now - SKEW // 2, now + grant.ticks),
                        chain=(),
                        overbooking=grant.overbooking,
                        name=grant.id,
                    )
                )

        for pause in (*repeat(0.2, 10), *repeat(5.0, int(STORMY_SECONDS / 5.0))):
            if await done(giver, act):
                break
            await asyncio.sleep(pause)


async def done(seat: Seat, act: Callable[[Any, int], None]) -> bool:
    """Whether a command was carried out."""
    try:
        await seat.submit(act)
    except (Down, Refused):
        return False
    return True


def _parties(seats: Sequence[Seat]) -> dict[str, Party]:
    return {seat.party.kid: seat.party for seat in seats}
