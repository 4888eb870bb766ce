"""Three actors in one process, each with its REST API on a port of its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from shirako import trust
from shirako.actors.actor import Actor
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.handling import Outcome
from shirako.actors.performing import Pool, SitePerformer
from shirako.actors.probing import Probing
from shirako.actors.service_manager import ServiceManager
from shirako.api import Tokens, Upkeep, application
from shirako.api.models import Lease
from shirako.api.tokens import TokenRole
from shirako.clock import RealEntropy, SteadyClock
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.machine import Key, Me, Work
from shirako.core.policy import Assignment
from shirako.core.terms import Term
from shirako.handlers import HandlerFailed, Log, UnitJob
from shirako.ledger.memory import MemoryLedger
from shirako.transport.local import LocalTransport
from shirako.trust import PrivateKey
from shirako_policies.first_come import FirstCome
from shirako_policies.first_fit import FirstFit
from shirako_policies.renew import Renew
from twin import TwinDriver

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA0YhSZf0B1mFl1k2fRZ6rRkW2cX0cX0cX0cX0cX0cX0"
DELEGATED_SECONDS = 20_000
UNITS = 6


@dataclass
class Handlers:
    """Handlers that do what a test wants: by default they work at once."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gate.set()

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome:
        tell(f"{work.handler} begins")
        await self.gate.wait()
        if work.handler in self.failing:
            raise HandlerFailed("the test says so")
        outputs = {"host": "10.0.0.1", "port": "22", "user": "s-blue", "host_key": HOST_KEY}
        return Outcome(outputs, ("account_gone",))

    async def probe(self, unit: str, epoch: int, tell: Log, holder: Key | None = None) -> None:
        raise HandlerFailed("a guest has no units")

    async def close(self) -> None:
        """Nothing to give back."""


class Nodes(TwinDriver):
    """The site's: the same, and what is on each node can be spoilt."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing: set[str] = set()

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        log("setup begins")
        await super().setup(job, log)
        return {"host": "10.0.0.1", "port": "22", "user": "s-blue", "host_key": HOST_KEY}

    async def _pass(self, handler: str, job: UnitJob | None) -> None:
        await self.gate.wait()
        await super()._pass(handler, job)
        if handler in self.failing:
            raise HandlerFailed("the test says so")


class Jumping(SteadyClock):
    """The real clocks, and a machine whose clock a test may set."""

    def __init__(self) -> None:
        self.set_ahead = 0
        """Seconds."""
        super().__init__(
            lambda: time.time_ns() // 1_000_000 + self.set_ahead * 1000,
            lambda: time.monotonic_ns() // 1_000_000,
        )


@dataclass(kw_only=True)
class World:
    """The actors, and how to talk to them."""

    actors: dict[str, Actor[Any]]
    servers: dict[str, TestServer]
    handlers: dict[str, Any]
    """What the guest's and the broker's actor runs, and at `site` the driver of the nodes."""
    probing: Probing
    """Not started: a test that wants the nodes looked at starts it."""
    clock: Jumping
    tokens: Tokens
    secrets: dict[str, str]
    session: aiohttp.ClientSession

    def url(self, actor: str) -> str:
        return str(self.servers[actor].make_url("")).rstrip("/")

    async def call(
        self,
        actor: str,
        token: str,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, JSON and response; every refusal is held to be problem details."""
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {self.secrets.get(token, token)}"
        kind = {"json": body} if data is None and body is not None else {"data": data}
        async with self.session.request(
            method, f"{self.url(actor)}/api/v1{path}", headers=sent, **kind
        ) as response:
            told = await response.json(content_type=None)
            if response.status >= 400:
                assert response.content_type == "application/problem+json"
                assert told["status"] == response.status
                assert told["type"].startswith("urn:shirako:problem:")
                assert told["title"]
                assert told["detail"]
            return response.status, told, response

    async def request(self, token: str = "ann", **changes: object) -> Lease:
        body = {"slice": "blue", "type": "node", "duration": "1h", **changes}
        status, told, _ = await self.call("guest", token, "POST", "/leases", body)
        assert status == 201, told
        return Lease.model_validate_json(json.dumps(told))

    async def until(self, lease: str, *states: str) -> Any:
        """The record of a lease once it is in one of these states."""
        key = (self.actors["guest"].party.kid, lease)
        async with asyncio.timeout(20):
            async for record in self.actors["guest"].changes(key):
                assert record is not None
                state: Any = record.state  # type: ignore[attr-defined]
                if state.value in states:
                    return record
        raise AssertionError("a watch does not end")

    async def active(self, token: str = "ann", **changes: object) -> Lease:
        lease = await self.request(token, **changes)
        await self.until(lease.id, "Active")
        return lease


def _me(key: PrivateKey, party: Party) -> Me:
    return Me(
        party,
        partial(trust.sign_claim, key),
        partial(trust.sign_lease, key),
        partial(trust.sign_receipt, key),
        partial(trust.sign_revocation, key),
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    keys = {name: PrivateKey.generate() for name in ("site", "broker", "guest")}
    parties = {
        name: Party(key.public.kid, key.public.x, f"local:{name}", name)
        for name, key in keys.items()
    }
    mes = {name: _me(key, parties[name]) for name, key in keys.items()}

    def pick(name: str) -> dict[str, Party]:
        return {parties[name].kid: parties[name]}

    units = {"node": tuple(f"n{i}" for i in range(UNITS)), "big": ("b0",)}
    policies: dict[str, Assignment] = {"node": FirstFit(), "big": FirstFit()}
    roles: dict[str, Callable[[], Any]] = {
        "site": lambda: Authority(mes["site"], pick("broker"), units, policies),
        "broker": lambda: Broker(mes["broker"], pick("site"), pick("guest"), FirstCome()),
        "guest": lambda: ServiceManager(mes["guest"], pick("broker"), Renew(), joins=True),
    }
    tokens = Tokens(tmp_path / "state")
    whose: dict[str, TokenRole] = {
        "ann": "guest",
        "bob": "guest",
        "looker": "viewer",
        "admin": "site-admin",
        "seller": "broker-admin",
    }
    secrets = {name: tokens.create(name, role) for name, role in whose.items()}
    transport, clock, entropy = LocalTransport(), Jumping(), RealEntropy()
    nodes = Nodes()
    pools = {
        kind: Pool(
            type=kind,
            units={name: {"host": name} for name in names},
            drivers=[nodes],
            setup_timeout=10.0,
            teardown_timeout=10.0,
            driver_names=["twin"],
        )
        for kind, names in units.items()
    }
    site_performer = SitePerformer(pools, lambda key: actors["site"].role.leases.get(key))
    handlers: dict[str, Any] = {"site": nodes, "broker": Handlers(), "guest": Handlers()}
    performers = {**handlers, "site": site_performer}
    upkeep: dict[str, Upkeep] = {}
    actors: dict[str, Actor[Any]] = {}
    servers: dict[str, TestServer] = {}
    async with AsyncExitStack() as stack:
        for name, role in roles.items():
            actor: Actor[Any] = Actor(
                party=parties[name],
                key=keys[name],
                open_role=role,
                ledger=MemoryLedger(),
                transport=transport,
                performer=performers[name],
                clock=clock,
                entropy=entropy,
                skew=30,
            )
            await actor.start()
            stack.push_async_callback(actor.stop)
            transport.listen(parties[name].url, actor.receive)
            if name == "site":
                upkeep[name] = Upkeep(site_performer, Probing(actor, {"node": 0.05}))
                stack.push_async_callback(upkeep[name].probing.stop)
            app = application(actor, tokens, upkeep=upkeep.get(name))
            servers[name] = TestServer(app)
            await servers[name].start_server()
            stack.push_async_callback(servers[name].close)
            actors[name] = actor
        now = clock.tick()
        share = Delegation(
            id="share",
            holder=parties["broker"],
            type="node",
            units=UNITS,
            term=Term(now - 10, now + DELEGATED_SECONDS),
            chain=(),
        )
        await actors["site"].submit(lambda role, _now: role.delegate(share))
        async with asyncio.timeout(10):
            while not actors["broker"].role.delegations:  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(0.01)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(
            actors=actors,
            servers=servers,
            handlers=handlers,
            probing=upkeep["site"].probing,
            clock=clock,
            tokens=tokens,
            secrets=secrets,
            session=session,
        )
