"""The REST API from Python: typed, asynchronous, small.

    async with Client("http://127.0.0.1:7703", token) as client:
        lease = await client.request_lease(
            LeaseRequest(slice="blue", type="node.small", units=2, duration="2h")
        )
        async for event in client.watch(lease.id):
            ...

What can be sent twice without harm is tried again when the actor can not be reached or is too
busy. Refusals are raised as `Problem`, an actor that stays away as `Unreachable`.

For https addresses whose certificates the system does not trust, or where one is asked for:

    tls = shirako.certificates.client_context(Path("ca.pem"), Path("ann.pem"), Path("ann.key"))
    async with Client("https://guest.example.org:7703", token, tls=tls) as client:
        ...
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError

from shirako.api.models import (
    BrokerLeases,
    Calendar,
    CalendarWindow,
    ClockConfirmation,
    ClockRequest,
    CloseRequest,
    Delegation,
    DelegationRequest,
    Delegations,
    DrainRequest,
    ExtendRequest,
    Extension,
    Health,
    Lease,
    LeaseChange,
    LeaseEvent,
    LeaseRequest,
    Leases,
    Proofs,
    QuarantineRequest,
    ReconcileRequest,
    Reconciliation,
    RenewRequest,
    Revocation,
    RevokeRequest,
    SiteConflict,
    SiteConflicts,
    SiteLease,
    SiteLeases,
    SiteNode,
    SiteNodes,
    Status,
    Story,
    StoryEvent,
    StoryLine,
)
from shirako.api.problems import Problem
from shirako.api.recovery_models import Recovery, RecoveryRequest
from shirako.clock import Entropy, RealEntropy
from shirako.transport.tls_errors import TEXTS, Trouble, trouble_of

__all__ = ["Client", "LeaseRequest", "Problem", "Unreachable"]

ATTEMPTS = 4
PAUSE_SECONDS = 0.25
PAUSE_SECONDS_MAX = 10.0
TIMEOUT = aiohttp.ClientTimeout(total=90, sock_connect=5, sock_read=60)
PATIENT_TIMEOUT = aiohttp.ClientTimeout(total=3600, sock_connect=5)
"""For what a site answers only when it has been to its nodes."""
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=40)
EVENT_BYTES_MAX = 4 * 1024 * 1024

M = TypeVar("M", bound=BaseModel)
_Query = Sequence[tuple[str, str | int]]


class Unreachable(Exception):
    """The actor did not answer, or answered what is no answer of an actor."""

    def __init__(self, text: str, trouble: Trouble | None = None) -> None:
        super().__init__(text)
        self.trouble = trouble
        """What of TLS stood in the way, if anything of it did."""


class Client:
    """One actor's API, with one token."""

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        attempts: int = ATTEMPTS,
        entropy: Entropy | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`url`: the actor's address, without a path; `attempts` of each repeatable request.

        `tls`: what to trust and to show at https addresses; None: the system's authorities.
        """
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._attempts = attempts
        self._entropy = entropy or RealEntropy()
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls or True),
            timeout=TIMEOUT,
            headers=self._headers,
            read_bufsize=EVENT_BYTES_MAX,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # Every actor ------------------------------------------------------------------------------

    async def status(self) -> Status:
        return await self._get(Status, "/status")

    async def health(self) -> Health:
        return await self._get(Health, "/health")

    async def confirm_clock(self, *, dry_run: bool = False) -> ClockConfirmation:
        """Let the actor follow its machine's clock after a jump; or see what would be due then."""
        wanted = ClockRequest(dry_run=dry_run)
        return await self._send("POST", "/clock/confirm", ClockConfirmation, wanted)

    async def recover(self, *, dry_run: bool = False, backup_was_current: bool = False) -> Recovery:
        """End the hold of an actor that was restored from a backup; or see what that would do."""
        wanted = RecoveryRequest(dry_run=dry_run, backup_was_current=backup_was_current)
        return await self._send("POST", "/recovery", Recovery, wanted)

    # A guest's leases -------------------------------------------------------------------------

    async def request_lease(self, wanted: LeaseRequest, *, key: str = "") -> Lease:
        """Ask for a lease. The same `key` again is the same lease; without one it is made up."""
        headers = {"Idempotency-Key": key or self._entropy.fresh_id()}
        return await self._send("POST", "/leases", Lease, wanted, headers=headers)

    async def leases(
        self, *, state: Iterable[str] = (), slice_name: str = "", limit: int = 0
    ) -> tuple[Lease, ...]:
        """All leases, of all pages; `limit`: no more than so many, 0: all."""
        query: list[tuple[str, str | int]] = [("state", one) for one in state]
        if slice_name:
            query.append(("slice", slice_name))
        found: list[Lease] = []
        async for answer in self._pages(Leases, "/leases", query, limit):
            found.extend(answer.leases)
        return tuple(found[: limit or None])

    async def lease(self, lease: str) -> Lease:
        return await self._get(Lease, _path("leases", lease))

    async def story(self, lease: str) -> tuple[StoryLine, ...]:
        return (await self._get(Story, _path("leases", lease, "story"))).story

    async def proofs(self, lease: str) -> Proofs:
        return await self._get(Proofs, _path("leases", lease, "proofs"))

    async def extend(self, lease: str, wanted: ExtendRequest) -> Extension:
        """The answer; still `pending` when there was none in time. A no is a `Problem`."""
        path = _path("leases", lease, "extend")
        # `by` counts from the end there is now: twice it would be twice as much
        repeatable = wanted.end is not None
        return await self._send("POST", path, Extension, wanted, repeatable=repeatable)

    async def close(self, lease: str, reason: str = "") -> Lease:
        path = _path("leases", lease, "close")
        return await self._send("POST", path, Lease, CloseRequest(reason=reason))

    async def set_renew(self, lease: str, *, renew: bool) -> Lease:
        path = _path("leases", lease)
        return await self._send("PATCH", path, Lease, LeaseChange(renew=renew))

    async def watch(self, lease: str) -> AsyncGenerator[LeaseEvent | StoryEvent, None]:
        """The lease and its story now, and whatever happens to it, until it is over.

        A lost connection is taken up again, and nothing is told twice.
        """
        told, failures = 0, 0
        while True:
            try:
                path = _path("leases", lease, "events")
                async with aclosing(self._stream(path, told)) as events:
                    async for event in events:
                        if event is None:
                            return
                        failures = 0
                        if isinstance(event, StoryEvent):
                            told = event.number
                        yield event
            except Unreachable:
                failures += 1
                if failures >= self._attempts:
                    raise
            await asyncio.sleep(self._pause(failures))

    # A site -----------------------------------------------------------------------------------

    async def nodes(self) -> tuple[SiteNode, ...]:
        return (await self._get(SiteNodes, "/site/nodes")).nodes

    async def conflicts(self) -> tuple[SiteConflict, ...]:
        """Proofs that brokers sold more than they hold."""
        return (await self._get(SiteConflicts, "/site/conflicts")).conflicts

    async def quarantine_node(self, name: str, reason: str, *, replace: bool = False) -> SiteNode:
        """Hand a unit out no more. `replace`: also one that works for a lease."""
        path = _path("site", "nodes", name, "quarantine")
        wanted = QuarantineRequest(reason=reason, replace=replace)
        return await self._send("POST", path, SiteNode, wanted)

    async def release_node(self, name: str) -> SiteNode:
        path = _path("site", "nodes", name, "release")
        return await self._send("POST", path, SiteNode, timeout=PATIENT_TIMEOUT)

    async def drain_node(self, name: str, reason: str) -> SiteNode:
        """Give a unit to no lease any more; one that has it keeps it."""
        path = _path("site", "nodes", name, "drain")
        return await self._send("POST", path, SiteNode, DrainRequest(reason=reason))

    async def undrain_node(self, name: str) -> SiteNode:
        return await self._send("POST", _path("site", "nodes", name, "undrain"), SiteNode)

    async def reconcile(self, *, dry_run: bool = False) -> Reconciliation:
        """Compare ledger, directory and nodes, and mend what differs; this can take minutes."""
        wanted = ReconcileRequest(dry_run=dry_run)
        path = "/site/reconcile"
        return await self._send("POST", path, Reconciliation, wanted, timeout=PATIENT_TIMEOUT)

    async def site_leases(
        self, *, state: Iterable[str] = (), lease: str = "", limit: int = 0
    ) -> tuple[SiteLease, ...]:
        found: list[SiteLease] = []
        query = _lease_query(state, lease)
        async for answer in self._pages(SiteLeases, "/site/leases", query, limit):
            found.extend(answer.leases)
        return tuple(found[: limit or None])

    async def site_story(self, holder: str, lease: str) -> tuple[StoryLine, ...]:
        return (await self._get(Story, _path("site", "leases", holder, lease, "story"))).story

    async def close_at_site(self, holder: str, lease: str, reason: str = "") -> SiteLease:
        path = _path("site", "leases", holder, lease, "close")
        return await self._send("POST", path, SiteLease, CloseRequest(reason=reason))

    async def retry_teardown(self, holder: str, lease: str) -> SiteLease:
        path = _path("site", "leases", holder, lease, "retry")
        return await self._send("POST", path, SiteLease, repeatable=False)

    async def delegations(self) -> tuple[Delegation, ...]:
        return (await self._get(Delegations, "/site/delegations")).delegations

    async def delegate(self, wanted: DelegationRequest) -> Delegation:
        return await self._send("POST", "/site/delegations", Delegation, wanted)

    async def revoke_delegation(self, name: str, wanted: RevokeRequest) -> Revocation:
        """Take back what was delegated; or, as a dry run, see what that would mean."""
        path = _path("site", "delegations", name, "revoke")
        return await self._send("POST", path, Revocation, wanted)

    async def renew_delegation(self, name: str, wanted: RenewRequest) -> Delegation:
        """What goes on where the delegation ends. The same end again is the same delegation."""
        path = _path("site", "delegations", name, "renew")
        return await self._send("POST", path, Delegation, wanted)

    # A broker ---------------------------------------------------------------------------------

    async def delegate_below(self, wanted: DelegationRequest) -> Delegation:
        return await self._send("POST", "/broker/delegations", Delegation, wanted)

    async def calendar(self, window: CalendarWindow | None = None) -> Calendar:
        asked = window.model_dump(mode="json", exclude_none=True) if window else {}
        return await self._get(Calendar, "/broker/calendar", tuple(asked.items()))

    async def broker_leases(
        self, *, state: Iterable[str] = (), lease: str = "", limit: int = 0
    ) -> BrokerLeases:
        found: list[Any] = []
        query = _lease_query(state, lease)
        async for answer in self._pages(BrokerLeases, "/broker/leases", query, limit):
            found.extend(answer.leases)
        return BrokerLeases(leases=tuple(found[: limit or None]))

    async def broker_story(self, holder: str, lease: str) -> tuple[StoryLine, ...]:
        path = _path("broker", "leases", holder, lease, "story")
        return (await self._get(Story, path)).story

    async def broker_delegations(self) -> tuple[Delegation, ...]:
        return (await self._get(Delegations, "/broker/delegations")).delegations

    # Requests ---------------------------------------------------------------------------------

    async def _pages(
        self, model: type[M], path: str, query: _Query, limit: int
    ) -> AsyncIterator[M]:
        after: str | None = ""
        left = limit
        while after is not None:
            size = min(left, 1000) if limit else 1000
            answer: Any = await self._get(model, path, [*query, ("limit", size), ("after", after)])
            yield answer
            left -= len(answer.leases)
            after = answer.next if not limit or left > 0 else None

    async def _get(self, model: type[M], path: str, query: _Query = ()) -> M:
        return await self._try("GET", path, model, None, {}, query, self._attempts)

    async def _send(
        self,
        method: str,
        path: str,
        model: type[M],
        body: BaseModel | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> M:
        attempts = self._attempts if repeatable else 1
        return await self._try(method, path, model, body, headers or {}, (), attempts, timeout)

    async def _try(
        self,
        method: str,
        path: str,
        model: type[M],
        body: BaseModel | None,
        headers: Mapping[str, str],
        query: _Query,
        attempts: int,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> M:
        for attempt in range(1, attempts + 1):
            try:
                return await self._once(method, path, model, body, headers, query, timeout)
            except Unreachable as error:
                # a certificate that is wrong now will be wrong in a second
                if attempt == attempts or error.trouble not in (None, "demanded"):
                    raise
            except Problem as problem:
                if attempt == attempts or problem.status not in (429, 503):
                    raise
            await asyncio.sleep(self._pause(attempt))
        raise AssertionError("at least one attempt is made")

    def _pause(self, failures: int) -> float:
        doubled = PAUSE_SECONDS * 2.0 ** max(failures - 1, 0)
        return min(doubled, PAUSE_SECONDS_MAX) * self._entropy.jitter()

    async def _once(
        self,
        method: str,
        path: str,
        model: type[M],
        body: BaseModel | None,
        headers: Mapping[str, str],
        query: _Query,
        timeout: aiohttp.ClientTimeout,
    ) -> M:
        data = body.model_dump_json(exclude_none=True).encode() if body else None
        sent = {**headers, "Content-Type": "application/json"} if body else headers
        try:
            async with self._opened().request(
                method,
                f"{self.url}/api/v1{path}",
                data=data,
                headers=sent,
                params=query,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                await _check(response, self.url)
                return model.model_validate_json(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(self.url, error) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("a client is used in `async with`")
        return self._session

    async def _stream(
        self, path: str, told: int
    ) -> AsyncGenerator[LeaseEvent | StoryEvent | None, None]:
        """The events of one connection; None is the last one of all."""
        try:
            async with self._opened().get(
                f"{self.url}/api/v1{path}",
                headers={"Accept": "text/event-stream", "Last-Event-ID": str(told)},
                timeout=STREAM_TIMEOUT,
                allow_redirects=False,
            ) as response:
                await _check(response, self.url)
                name, data = "", ""
                async for raw in response.content:
                    line = raw.decode("utf-8", "replace").rstrip("\r\n")
                    field, _, value = line.partition(":")
                    if field == "event":
                        name = value.strip()
                    elif field == "data":
                        data = value.strip()
                    elif not line and name:
                        if name in _EVENTS:
                            yield _EVENTS[name].model_validate_json(data)
                        elif name == "end":
                            yield None
                        name, data = "", ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(self.url, error) from error


_EVENTS: dict[str, type[LeaseEvent] | type[StoryEvent]] = {
    "lease": LeaseEvent,
    "story": StoryEvent,
}


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _lease_query(state: Iterable[str], lease: str) -> list[tuple[str, str | int]]:
    query: list[tuple[str, str | int]] = [("state", one) for one in state]
    return [*query, ("id", lease)] if lease else query


async def _check(response: aiohttp.ClientResponse, url: str) -> None:
    """Raise `Problem` for a refusal, `Unreachable` for what is no answer of an actor."""
    if response.status < 300:
        return
    if response.content_type != "application/problem+json":
        raise Unreachable(f"{url} answers {response.status}, and not as an actor would")
    try:
        document = await response.json(content_type=None)
    except ValueError:
        document = None
    raise Problem.read(response.status, document)


def _unreachable(url: str, error: Exception) -> Unreachable:
    if isinstance(error, ValidationError):
        return Unreachable(f"{url} answers what is not understood here: {error.title}")
    if isinstance(error, TimeoutError):
        return Unreachable(f"{url} does not answer in time")
    trouble = trouble_of(error, url)
    told = TEXTS[trouble] if trouble else str(error) or type(error).__name__
    return Unreachable(f"{url} can not be reached: {told}", trouble)
