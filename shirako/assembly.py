"""From a descriptor to running actors: the one place that knows every part.

Each actor gets its role, ledger, transport and handlers, and one HTTP server with the routes for
other actors and for people. Actors of one process reach each other without HTTP, but through the
same signed envelopes.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from aiohttp import web

from shirako import __version__, certificates, clock, trust
from shirako.actors.actor import Actor
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.handling import Performer
from shirako.actors.performing import GuestPerformer, NoPerformer, Pool, SitePerformer
from shirako.actors.probing import Probing
from shirako.actors.role import Refused, Role
from shirako.actors.service_manager import ServiceManager
from shirako.api import Tokens, Upkeep, application
from shirako.clock import Clock, Entropy, RealClock, RealEntropy, utc
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import Me
from shirako.core.terms import Term
from shirako.credentials import Credentials, Files, look_after
from shirako.descriptor import (
    ActorSpec,
    AuthoritySpec,
    BrokerSpec,
    Descriptor,
    PeerSpec,
    Plugin,
    PoolSpec,
    ServiceManagerSpec,
    read_descriptor,
)
from shirako.ledger import FollowedLedger, Lag, Ledger, LedgerError
from shirako.ledger.opening import open_ledger
from shirako.transport import Transport
from shirako.transport.http import PROTOCOL_VERSION, HttpTransport, message_routes, problem
from shirako.transport.limits import Limits, Places
from shirako.transport.listening import Listener
from shirako.transport.local import LocalTransport
from shirako.trust import PrivateKey

GUEST_HANDLER_SECONDS = 600.0
INSIST_SECONDS = 2.0
DELEGATED_TICKS = 365 * 24 * 3600
"""How long a delegation lasts whose descriptor names no end."""

log = logging.getLogger(__name__)

# What breaks in our own handlers is told by the application. What is left are requests that are no
# HTTP, which anybody can send without end: aiohttp would log a traceback for each.
_BROKEN_REQUESTS = logging.getLogger("aiohttp.server")
_BROKEN_REQUESTS.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Running:
    """One actor that runs, and what it was made from."""

    spec: ActorSpec
    actor: Actor[Any]


async def run(path: Path, names: tuple[str, ...] = (), *, standby: bool = False) -> None:
    """Run the actors of a descriptor, or those named, until SIGTERM or SIGINT.

    With `standby` an actor whose ledger another process holds waits until it can take over.
    Raises `DescriptorInvalid`, `LedgerError`, `Untrusted` or OSError when they can not start, or
    `LedgerError` when one of them can not go on.
    """
    stop, opening = asyncio.Event(), Opening(standby=standby)

    def end() -> None:
        stop.set()
        opening.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        async with running(read_descriptor(path), names, opening=opening) as actors:
            for one in actors:
                log.warning("%s %s runs at %s", one.spec.role, one.spec.name, one.spec.url)
            # what was loaded stays: without this each full collection would look through it
            gc.freeze()
            await _first(stop, *(one.actor.ended for one in actors))
            for one in actors:
                if one.actor.why_ended is not None:
                    raise one.actor.why_ended
    except LedgerError:
        if not stop.is_set():  # otherwise it only says that a wait was ended
            raise


@dataclass(frozen=True, slots=True)
class Opening:
    """How ledgers are opened."""

    standby: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set to end waits for a ledger: for another process, or for a server that is away."""


async def _ledger(descriptor: Descriptor, spec: ActorSpec, opening: Opening) -> Ledger:
    """The actor's ledger, opened in a thread, since a standby may wait for days."""
    where: str | Path = descriptor.ledger or descriptor.state / f"{spec.name}.sqlite"
    if opening.standby:
        log.warning("%s %s waits for its ledger", spec.role, spec.name)
    ledger = await asyncio.to_thread(
        open_ledger, where, spec.name, standby=opening.standby, stopping=opening.stopping
    )
    if spec.mirror is None:
        return ledger
    # only who has a mirror needs the directory's client library
    from shirako.ledger.copying import reading
    from shirako.ledger.mirror.ledger import mirrored

    return mirrored(ledger, partial(reading, where, spec.name), spec.mirror, spec.name)


def _lag(ledger: Ledger) -> Callable[[], Lag] | None:
    return ledger.lag if isinstance(ledger, FollowedLedger) else None


async def _first(*events: asyncio.Event) -> None:
    """Returns when one of the events has come."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


@asynccontextmanager
async def running(
    descriptor: Descriptor,
    names: tuple[str, ...] = (),
    *,
    real_clock: Clock | None = None,
    entropy: Entropy | None = None,
    limits: Limits | None = None,
    opening: Opening | None = None,
) -> AsyncIterator[list[Running]]:
    """The actors, loaded, served and asked for what their descriptor wants of them.

    `real_clock`: one for all; without it each has its own, which can be confirmed after a jump.
    `limits` of what clients may use, in place of the descriptor's. Raises also `CertificateError`.
    """
    limits, opening = limits or descriptor.limits, opening or Opening()
    specs = _chosen(descriptor, names)
    parties = _parties(descriptor, specs)
    credentials = {spec.name: _credentials(descriptor, spec) for spec in specs}
    door = _Door(descriptor, Tokens(descriptor.state), limits, Places(limits))
    async with AsyncExitStack() as stack:
        near = LocalTransport()
        near_urls = {spec.url for spec in specs}
        started: list[Running] = []
        for spec in specs:
            own = credentials[spec.name]
            transport = _Transport(near, near_urls, HttpTransport(_client(descriptor, own)))
            stack.push_async_callback(transport.close)
            assembler = _Assembler(
                descriptor,
                spec,
                parties,
                transport,
                real_clock or RealClock(bound_ms=descriptor.skew * 1000),
                entropy or RealEntropy(),
            )
            async with door.waiting(spec, own) if opening.standby else nullcontext():
                ledger = await _ledger(descriptor, spec, opening)
                actor = assembler.actor(ledger)
                await actor.start()
            stack.push_async_callback(actor.stop)
            stack.callback(opening.stopping.set)  # before it stops: a commit may wait for a server
            near.listen(spec.url, actor.receive)
            started.append(Running(spec, actor))
            upkeep = _upkeep(spec, actor)
            if upkeep is not None:
                upkeep.probing.start()
                stack.push_async_callback(upkeep.probing.stop)
            await stack.enter_async_context(door.opened(spec, actor, upkeep, own, _lag(ledger)))
        watched = [one for one in credentials.values() if one is not None]
        if watched:
            task = asyncio.create_task(look_after(watched, lambda: utc(RealClock().tick())))
            stack.callback(task.cancel)
        for one in started:
            await _begin(one, parties, opening.stopping)
        yield started


def _chosen(descriptor: Descriptor, names: tuple[str, ...]) -> list[Any]:
    unknown = set(names) - {spec.name for spec in descriptor.actors}
    if unknown:
        known = ", ".join(spec.name for spec in descriptor.actors)
        raise LookupError(f"no actor {', '.join(sorted(unknown))}; the descriptor has {known}")
    return [spec for spec in descriptor.actors if not names or spec.name in names]


def _parties(descriptor: Descriptor, chosen: Sequence[ActorSpec]) -> dict[str, Party]:
    """Every actor that the descriptor names, by name. Private keys of others are not opened."""
    parties = {}
    for spec in (*descriptor.actors, *descriptor.peers):
        parties[spec.name] = _party(spec, own=spec.name in {one.name for one in chosen})
    return parties


def _party(spec: ActorSpec | PeerSpec, *, own: bool) -> Party:
    if isinstance(spec, PeerSpec):
        key = trust.read_public(spec.key)
    elif own:
        key = PrivateKey.read(spec.key).public
    else:
        key = trust.read_public(trust.public_path(spec.key))
    return trust.party_of(key, spec.url, spec.name)


def _lineages(descriptor: Descriptor) -> dict[str, tuple[str, ...]]:
    """By identity, the successions that the public key files tell of."""
    pins = [trust.read_pin(spec.key) for spec in descriptor.peers]
    for spec in descriptor.actors:
        with suppress(FileNotFoundError):  # of our own the private half is enough
            pins.append(trust.read_pin(trust.public_path(spec.key)))
    return {pin.key.kid: pin.lineage for pin in pins}


def _credentials(descriptor: Descriptor, spec: ActorSpec) -> Credentials | None:
    """What an actor shows over TLS; None for one that shows nothing."""
    tls = descriptor.tls
    if tls is None or not (tls.mutual or spec.url.startswith("https:")):
        return None
    return Credentials(spec.name, Files(tls.certificates, tls.ca), mutual=tls.mutual)


def _client(descriptor: Descriptor, own: Credentials | None) -> ssl.SSLContext | None:
    """What an actor goes by when it connects; None: the system's authorities."""
    if own is not None:
        return own.client
    if descriptor.tls is None:
        return None
    files = Files(descriptor.tls.certificates, descriptor.tls.ca)
    context = certificates.client_context(files.authority, None, None)
    if files.ca is not None:
        certificates.trust(context, files.ca)
    return context


class _Transport:
    """Near actors directly, far ones over HTTP."""

    def __init__(self, near: LocalTransport, near_urls: set[str], far: HttpTransport) -> None:
        self._near = near
        self._near_urls = near_urls
        self._far = far

    async def post(self, url: str, envelope: bytes) -> bytes:
        chosen: Transport = self._near if url in self._near_urls else self._far
        return await chosen.post(url, envelope)

    async def close(self) -> None:
        await self._far.close()


@dataclass(frozen=True, slots=True)
class _Assembler:
    """Makes one actor."""

    descriptor: Descriptor
    spec: ActorSpec
    parties: dict[str, Party]
    transport: Transport
    clock: Clock
    entropy: Entropy

    def actor(self, ledger: Ledger) -> Actor[Any]:
        key = PrivateKey.read(self.spec.key)
        lineages = {**_lineages(self.descriptor), key.public.kid: key.lineage}
        me = trust.me_of(key, self.parties[self.spec.name], self.descriptor.skew)
        box: list[Actor[Any]] = []
        open_role, performer = self._role(me, lambda lease: box[0].role.leases.get(lease))
        made: Actor[Any] = Actor(
            party=me.party,
            key=key,
            open_role=open_role,
            ledger=ledger,
            transport=self.transport,
            performer=performer,
            clock=self.clock,
            entropy=self.entropy,
            skew=self.descriptor.skew,
            lineages=lineages,
        )
        box.append(made)
        return made

    def _role(
        self, me: Me, lease_of: Callable[[Any], Any]
    ) -> tuple[Callable[[], Role[Any]], Performer]:
        spec = self.spec
        if isinstance(spec, AuthoritySpec):
            return self._authority(spec, me, lease_of)
        if isinstance(spec, BrokerSpec):
            suppliers, guests = self._near(source=True), self._near(source=False)
            policy = load_plugin("shirako.policies.allocation", spec.allocation, self._base)
            most = self.descriptor.limits.leases_a_guest
            broker = partial(Broker, me, suppliers, guests, policy, leases_a_guest=most)
            return broker, NoPerformer()
        if isinstance(spec, ServiceManagerSpec):
            drivers = [
                load_plugin("shirako.guest_drivers", plugin, self._base)
                for plugin in spec.guest_drivers
            ]
            policy = load_plugin("shirako.policies.demand", spec.demand, self._base)
            role = partial(ServiceManager, me, self._near(source=True), policy, joins=bool(drivers))
            return role, GuestPerformer(drivers, GUEST_HANDLER_SECONDS, lease_of)
        raise AssertionError(f"no role for {spec}")

    def _authority(
        self, spec: AuthoritySpec, me: Me, lease_of: Callable[[Any], Any]
    ) -> tuple[Callable[[], Role[Any]], Performer]:
        pools = {pool.type: self._pool(pool) for pool in spec.pools}
        policies = {
            pool.type: load_plugin("shirako.policies.assignment", pool.assignment, self._base)
            for pool in spec.pools
        }
        names = {kind: tuple(pool.units) for kind, pool in pools.items()}
        attempts = {pool.type: pool.attempts for pool in spec.pools}
        most = self.descriptor.limits.leases_a_guest
        near = self._near(source=False)
        lasting = frozenset(one.name for one in spec.delegations)
        role = partial(
            Authority, me, near, names, policies, attempts, leases_a_guest=most, lasting=lasting
        )
        return role, SitePerformer(pools, lease_of)

    def _pool(self, pool: PoolSpec) -> Pool:
        return Pool(
            type=pool.type,
            units={unit.name: unit.attributes for unit in pool.units},
            drivers=[load_plugin("shirako.drivers", one, self._base) for one in pool.drivers],
            driver_names=[one.name for one in pool.drivers],
            setup_timeout=pool.setup_timeout,
            teardown_timeout=pool.teardown_timeout,
        )

    def _near(self, *, source: bool) -> dict[str, Party]:
        """The parties at the other end of our edges; `source`: those nearer the site than we."""
        names = [
            edge.source if source else edge.target
            for edge in self.descriptor.edges
            if (edge.target if source else edge.source) == self.spec.name
        ]
        return {self.parties[name].kid: self.parties[name] for name in names}

    @property
    def _base(self) -> Path:
        return self.descriptor.path.parent


def load_plugin(group: str, plugin: Plugin, base: Path) -> Any:
    """An instance of the entry point `plugin.name`, with its options checked and given."""
    (point,) = entry_points(group=group, name=plugin.name)
    made = point.load()
    model = getattr(made, "Options", None)
    if model is None:
        return made()
    return made(model.model_validate(dict(plugin.options), context={"base": base}))


def _upkeep(spec: ActorSpec, actor: Actor[Any]) -> Upkeep | None:
    """What looks after the units of an authority; nothing of it runs yet."""
    performer = actor.performer
    if not isinstance(spec, AuthoritySpec) or not isinstance(performer, SitePerformer):
        return None
    intervals = {pool.type: pool.probe for pool in spec.pools}
    return Upkeep(performer, Probing(actor, intervals))


@dataclass(frozen=True, slots=True)
class _Door:
    """How actors are served over HTTP: what is the same for all of a process."""

    descriptor: Descriptor
    tokens: Tokens
    limits: Limits
    places: Places

    @asynccontextmanager
    async def opened(
        self,
        spec: ActorSpec,
        actor: Actor[Any],
        upkeep: Upkeep | None,
        credentials: Credentials | None,
        lag: Callable[[], Lag] | None,
    ) -> AsyncIterator[None]:
        """Serves one actor for as long as the context lasts. Raises OSError."""
        tls = _shown(spec, credentials)
        ends = (lambda: tls.ends) if tls is not None else None
        app = application(
            actor,
            self.tokens,
            self.descriptor,
            upkeep,
            limits=self.limits,
            certificate_ends=ends,
            lag=lag,
        )
        app.add_routes(message_routes(actor.receive, _about(spec, actor), self.limits))
        counters = actor.counters
        async with self._served(
            spec, app, lambda kind: counters.update([f"refused.{kind}"]), credentials
        ):
            yield

    @asynccontextmanager
    async def waiting(
        self, spec: ActorSpec, credentials: Credentials | None
    ) -> AsyncIterator[None]:
        """Says to everybody that this copy of the actor does not act yet.

        Not where the one that acts has the address itself.
        """

        async def answer(_request: web.Request) -> web.Response:
            return problem(503, "standby", f"this copy of {spec.name} waits to take over")

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with AsyncExitStack() as stack:
            with suppress(OSError):
                await stack.enter_async_context(
                    self._served(spec, app, lambda _kind: None, credentials)
                )
            yield

    @asynccontextmanager
    async def _served(
        self,
        spec: ActorSpec,
        app: web.Application,
        count: Callable[[str], None],
        credentials: Credentials | None,
    ) -> AsyncIterator[None]:
        """Listens at the actor's address for as long as the context lasts. Raises OSError."""
        tls = _shown(spec, credentials)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        listener = Listener(
            cast(web.Server, runner.server),  # there is one after the set-up
            self.limits,
            self.places,
            count,
            None if tls is None else tls.server,
        )
        address = urlsplit(spec.url)
        try:
            await listener.open(address.hostname or "", address.port or 0)
            yield
        finally:
            await listener.close()
            await runner.cleanup()


def _shown(spec: ActorSpec, credentials: Credentials | None) -> Credentials | None:
    """What is shown to who connects; None where that is nothing."""
    return credentials if spec.url.startswith("https:") else None


def _about(spec: ActorSpec, actor: Actor[Any]) -> dict[str, object]:
    """What an actor tells everybody of itself: who it is, and the key that it signs with."""
    key = actor.key
    about: dict[str, object] = {
        "name": spec.name,
        "role": spec.role,
        "kid": actor.party.kid,
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": actor.party.x},
        "key": {"kty": "OKP", "crv": "Ed25519", "x": key.x},
        "lineage": key.lineage,
        "protocol": PROTOCOL_VERSION,
        "version": __version__,
    }
    if isinstance(spec, AuthoritySpec):
        about["types"] = [pool.type for pool in spec.pools]
    return about


async def _begin(one: Running, parties: dict[str, Party], stopping: threading.Event) -> None:
    """What the descriptor wants of an actor that starts for the first time; again: no change."""
    if isinstance(one.spec, AuthoritySpec):
        for wanted in one.spec.delegations:
            await _insist(one.actor, partial(_delegate, wanted, one.spec, parties), stopping)
    if isinstance(one.spec, ServiceManagerSpec):
        for lease in one.spec.leases:
            await _insist(one.actor, partial(_demand, lease, one.spec.name), stopping)


async def _insist(
    actor: Actor[Any], act: Callable[[Any, int], Any], stopping: threading.Event
) -> None:
    """Submit it until it is stored: on a full disk the actor serves, and this waits.

    Also returns when the actor is to stop, or can not go on.
    """
    while not (stopping.is_set() or actor.ended.is_set()):
        try:
            await actor.submit(act)
        except Refused as refused:
            if not refused.retry:
                raise
            log.warning("%s waits to do what its descriptor says: %s", actor.party.name, refused)
            await asyncio.sleep(INSIST_SECONDS)
        else:
            return


def _delegate(
    wanted: Any, spec: AuthoritySpec, parties: dict[str, Party], role: Authority, now: int
) -> Delegation:
    start = clock.tick_of(wanted.start) if wanted.start else now
    end = clock.tick_of(wanted.end) if wanted.end else start + DELEGATED_TICKS
    pool = next(pool for pool in spec.pools if pool.type == wanted.type)
    return role.delegate(
        Delegation(
            id=wanted.name,
            holder=parties[wanted.to],
            type=wanted.type,
            units=wanted.units,
            term=Term(start, end),
            chain=(),
            overbooking=wanted.overbooking,
            name=wanted.name,
            resource=dict(pool.properties),
        )
    )


def _demand(wanted: Any, owner: str, role: ServiceManager, now: int) -> GuestLease:
    start = clock.tick_of(wanted.start) if wanted.start else now
    broker = next(iter(role.brokers.values()))
    keys = tuple(path.read_text().strip() for path in wanted.ssh_keys)
    lease = GuestLease(
        id=f"demand.{wanted.name}",
        guest=role.me.party,
        owner=owner,
        slice=wanted.slice,
        type=wanted.type,
        units=wanted.units,
        least_units=wanted.units,
        state=GuestState.NASCENT,
        broker=broker,
        term=Term(start, start + int(wanted.duration.total_seconds())),
        renew=wanted.renew,
        keys=keys,
    )
    return role.request(lease, now, "descriptor")
