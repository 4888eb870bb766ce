"""Routes of a service manager: a guest's leases, and nobody else's (ISOLATED).

A lease belongs to the name of the token that asked for it. Somebody else's is answered exactly as
one that does not exist.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable

from aiohttp import web

from shirako.actors.actor import Actor
from shirako.actors.role import Refused
from shirako.actors.service_manager import ServiceManager
from shirako.api import models, views
from shirako.api.convictions import proof
from shirako.api.problems import RETRY_SECONDS, Problem
from shirako.api.records import record_of, story_of
from shirako.api.routes import (
    ANYBODY,
    PREFIX,
    Call,
    Header,
    Reply,
    Route,
    among_states,
    bad,
    page,
)
from shirako.api.stream import Streams, watched
from shirako.api.tokens import TokenRole
from shirako.clock import tick_of, utc
from shirako.core.claims import Party
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import Key, Woken
from shirako.core.terms import FOREVER, Term

EXTEND_SECONDS = 30.0
"""How long an answer to an extension is waited for before the caller is told to ask later."""
_KEY = re.compile(r"^[ -~]{1,255}$")
_GUEST: frozenset[TokenRole] = frozenset(("guest",))
_BEFORE_ACTIVE = (
    GuestState.NASCENT,
    GuestState.TICKETING,
    GuestState.TICKETED,
    GuestState.REDEEMING,
    GuestState.LEASED,
    GuestState.JOINING,
)
_LOCATION = {"Location": "The path of the lease"}
_IDEMPOTENCY = {
    "Idempotency-Key": Header("The same key with the same body is the same lease", _KEY.pattern)
}


class GuestRoutes:
    """`/leases`"""

    def __init__(self, actor: Actor[ServiceManager], streams: Streams) -> None:
        self._actor = actor
        self._streams = streams

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="POST",
                path="/leases",
                handler=self.request,
                summary="Ask for a lease",
                roles=_GUEST,
                body=models.LeaseRequest,
                answer=models.Lease,
                statuses={201: "Asked for", 200: "Was asked for before, with the same key"},
                headers=_IDEMPOTENCY,
                answer_headers={201: _LOCATION, 200: _LOCATION},
            ),
            Route(
                method="GET",
                path="/leases",
                handler=self.leases,
                summary="Leases, by id",
                roles=ANYBODY,
                query=models.LeasePage,
                choices=among_states(GuestState),
                answer=models.Leases,
            ),
            Route(
                method="GET",
                path="/leases/{id}",
                handler=self.lease,
                summary="One lease",
                roles=ANYBODY,
                answer=models.Lease,
            ),
            Route(
                method="PATCH",
                path="/leases/{id}",
                handler=self.change,
                summary="Renew it, or no longer",
                roles=_GUEST,
                body=models.LeaseChange,
                answer=models.Lease,
            ),
            Route(
                method="GET",
                path="/leases/{id}/story",
                handler=self.story,
                summary="All that happened to it",
                roles=ANYBODY,
                answer=models.Story,
            ),
            Route(
                method="GET",
                path="/leases/{id}/events",
                handler=self.events,
                summary="Its changes as they come: server-sent events lease, story, end",
                roles=ANYBODY,
                content="text/event-stream",
                headers={"Last-Event-ID": Header("Number of story lines that are known already")},
            ),
            Route(
                method="GET",
                path="/leases/{id}/proofs",
                handler=self.proofs,
                summary="The signed statements behind it",
                roles=_GUEST,
                answer=models.Proofs,
            ),
            Route(
                method="POST",
                path="/leases/{id}/extend",
                handler=self.extend,
                summary="Ask for a later end; the answer tells the end that was granted",
                roles=_GUEST,
                body=models.ExtendRequest,
                answer=models.Extension,
                statuses={200: "Granted", 202: "No answer yet: look at the lease's `answer`"},
                answer_headers={202: {**_LOCATION, "Retry-After": "Seconds"}},
            ),
            Route(
                method="POST",
                path="/leases/{id}/close",
                handler=self.close,
                summary="End it now",
                roles=_GUEST,
                body=models.CloseRequest,
                answer=models.Lease,
            ),
        )

    # Which leases are whose -------------------------------------------------------------------

    def _own(self, call: Call) -> bool:
        return call.caller is not None and call.caller.role == "guest"

    def _visible(self, record: GuestLease, call: Call) -> bool:
        return not self._own(call) or record.owner == call.by

    def _find(self, call: Call) -> GuestLease:
        record = self._actor.role.leases.get(self._key(call.part("id")))
        if record is None or not self._visible(record, call):
            raise Problem(404, "not_found", "there is no such lease")
        return record

    def _key(self, lease: str) -> Key:
        return (self._actor.party.kid, lease)

    def _view(self, record: GuestLease, call: Call) -> models.Lease:
        return views.lease(record, own=self._own(call))

    # Asking -----------------------------------------------------------------------------------

    async def request(self, call: Call) -> Reply:
        body: models.LeaseRequest = call.body
        lease = self._id(call)
        fingerprint = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
        key = self._key(lease)

        def act(role: ServiceManager, now: int) -> tuple[GuestLease, bool]:
            known = role.leases.get(key)
            if known is not None:
                return known, False
            wanted = _wanted(body, lease, fingerprint, role, now, call.by)
            return role.request(wanted, now, call.by), True

        record, made = await self._submit(act)
        if record.fingerprint != fingerprint or record.owner != call.by:
            detail = "this Idempotency-Key was used for another request"
            raise Problem(409, "key_reused", detail, field="Idempotency-Key")
        headers = {"Location": f"{PREFIX}/leases/{lease}"}
        return Reply(self._view(record, call), 201 if made else 200, headers)

    async def _submit(
        self, act: Callable[[ServiceManager, int], tuple[GuestLease, bool]]
    ) -> tuple[GuestLease, bool]:
        """Like the actor's own; a fault of the request found by `act` is no fault of the actor."""
        faults: list[Problem] = []

        def careful(role: ServiceManager, now: int) -> tuple[GuestLease, bool]:
            try:
                return act(role, now)
            except Problem as problem:
                faults.append(problem)
                raise Refused(problem.kind, problem.detail) from problem

        try:
            return await self._actor.submit(careful)
        except Refused:
            if faults:
                raise faults[0] from None
            raise

    def _id(self, call: Call) -> str:
        """From the key, so that a repetition meets the same lease even after a crash."""
        key = call.request.headers.get("Idempotency-Key")
        if key is None:
            return self._actor.entropy.fresh_id()
        if not _KEY.fullmatch(key):
            raise bad("Idempotency-Key", "1 to 255 printable ASCII characters")
        return hashlib.sha256(f"{call.by}\0{key}".encode()).hexdigest()[:24]

    # Looking ----------------------------------------------------------------------------------

    async def leases(self, call: Call) -> models.Leases:
        query: models.LeasePage = call.query
        found = (
            (record.id, record)
            for record in self._actor.role.leases.values()
            if self._visible(record, call)
            and (not query.state or record.state.value in query.state)
            and query.slice in (None, record.slice)
        )
        leases, following = page(found, query, lambda record: self._view(record, call))
        return models.Leases(leases=leases, next=following)

    async def lease(self, call: Call) -> models.Lease:
        return self._view(self._find(call), call)

    async def story(self, call: Call) -> models.Story:
        return await story_of(self._actor, self._find(call).key)

    async def events(self, call: Call) -> web.StreamResponse:
        record = self._find(call)
        if call.caller is None:
            raise AssertionError("a route with roles has a caller")
        return await self._streams.serve(call.request, record.key, call.caller, own=self._own(call))

    async def proofs(self, call: Call) -> models.Proofs:
        record = self._find(call)
        return models.Proofs(
            ticket=record.ticket,
            lease=record.lease,
            receipt=record.receipt,
            revocation=record.revocation,
            conflict=proof(record.conflict) if record.conflict else None,
        )

    # Changing ---------------------------------------------------------------------------------

    async def close(self, call: Call) -> models.Lease:
        key = self._find(call).key
        reason = call.body.reason or "closed by the guest"
        record = await self._actor.submit(lambda role, now: role.close(key, reason, now, call.by))
        return self._view(record, call)

    async def change(self, call: Call) -> models.Lease:
        key, renew = self._find(call).key, call.body.renew

        def act(role: ServiceManager, now: int) -> GuestLease:
            record = record_of(role, key)
            if record.state.final:
                raise Refused("closed", "the lease is over")
            if record.renew == renew:
                return record
            record = role.set_renew(key, renew)
            role.tell(record, now, "RenewSet", call.by, "renews" if renew else "does not renew")
            if record.state is GuestState.ACTIVE:
                role.apply(record, Woken(now=now), call.by)  # let the policy think again
            return role.leases[key]

        return self._view(await self._actor.submit(act), call)

    async def extend(self, call: Call) -> Reply:
        """Ask, once what is under way has ended; the same question again waits for its answer."""
        record = self._find(call)
        body: models.ExtendRequest = call.body
        asked = tick_of(body.end) if body.end and _is_asking(record, tick_of(body.end)) else None
        try:
            async with asyncio.timeout(EXTEND_SECONDS):
                if asked is None:
                    record = await self._until(record.key, (*_BEFORE_ACTIVE, *views.EXTENDING))
                    asked = await self._ask_extension(record, body, call)
                record = await self._until(record.key, views.EXTENDING)
        except TimeoutError:
            return self._no_answer_yet(self._find(call), asked)
        return _extension_reply(record, asked)

    def _no_answer_yet(self, record: GuestLease, asked: int | None) -> Reply:
        if record.answer is None or asked is None or not _is_asking(record, asked):
            reason = f"the lease is still {record.state.value}: ask again once it is Active"
            raise Problem(409, "busy", reason, retry=True)
        headers = {
            "Location": f"{PREFIX}/leases/{record.id}",
            "Retry-After": str(RETRY_SECONDS),
        }
        return Reply(views.extension(record.answer, record.state), 202, headers)

    async def _ask_extension(
        self, record: GuestLease, body: models.ExtendRequest, call: Call
    ) -> int:
        """Put the question; returns the end asked for, in ticks."""
        if record.state.final:
            raise Problem(409, "closed", "the lease is over")
        end = tick_of(body.end) if body.end else record.term.end + (body.by or 0)
        least = tick_of(body.at_least) if body.at_least else end
        if _was_granted(record, end):
            return end
        if not record.term.end < least <= end:
            name = "at_least" if body.at_least else "end"
            last = views.lease(record, own=True).model_dump(mode="json")["end"]
            raise bad(name, f"the lease lasts until {last} already; an extension never shortens")
        if end - record.term.start > models.TERM_SECONDS_MAX or end > FOREVER:
            days = models.TERM_SECONDS_MAX // 86_400
            raise bad("end" if body.end else "by", f"a term lasts at most {days} days")
        await self._actor.submit(
            lambda role, now: role.extend(record.key, end, least, now, call.by)
        )
        return end

    async def _until(self, key: Key, passing: tuple[GuestState, ...]) -> GuestLease:
        """The lease once it is in none of these states."""
        async with watched(self._actor, key) as changes:
            async for record in changes:
                if not isinstance(record, GuestLease):
                    break
                if record.state not in passing:
                    return record
        raise Problem(404, "not_found", "there is no such lease")


def _extension_reply(record: GuestLease, asked: int) -> Reply:
    """The answer to our own question; 409 with the counter-offer when it is a no."""
    answer = record.answer
    if answer is None or answer.asked_end != asked:
        raise Problem(409, "busy", "the lease was extended in another way meanwhile", retry=True)
    told = views.extension(answer, record.state)
    if answer.refused:
        members = told.model_dump(mode="json")
        raise Problem(409, "refused", answer.refused, members=members)
    if record.state is not GuestState.ACTIVE:
        reason = f"the lease is {record.state.value}: {record.reason or record.closing}"
        raise Problem(409, "closed", reason, members=told.model_dump(mode="json"))
    return Reply(told, 200)


def _is_asking(record: GuestLease, end: int) -> bool:
    """Whether exactly this is being asked for now."""
    answer = record.answer
    return answer is not None and answer.asked_end == end and record.state in views.EXTENDING


def _was_granted(record: GuestLease, end: int) -> bool:
    """Whether exactly this was asked for last, and given: a repetition after a lost answer."""
    answer = record.answer
    if answer is None or answer.refused:
        return False
    return answer.asked_end == end == answer.granted_end == record.term.end


def _wanted(
    body: models.LeaseRequest,
    lease: str,
    fingerprint: str,
    role: ServiceManager,
    now: int,
    owner: str,
) -> GuestLease:
    """The record of a request. Raises `Problem` where it can not be."""
    return GuestLease(
        id=lease,
        guest=role.me.party,
        slice=body.slice,
        type=body.type,
        units=body.units,
        least_units=body.least_units or body.units,
        state=GuestState.NASCENT,
        broker=_broker(body, role),
        term=wanted_term(body, now, role.me.skew),
        renew=body.renew,
        owner=owner,
        keys=body.ssh_keys,
        request=body.request,
        configuration=body.configuration,
        fingerprint=fingerprint,
    )


def wanted_term(body: models.LeaseRequest, now: int, skew: int) -> Term:
    """The term of a request that arrived at tick `now`. Raises `Problem`."""
    start = tick_of(body.start) if body.start else now
    if start < now - skew:
        raise bad("start", f"in the past: here it is {utc(now):%Y-%m-%dT%H:%M:%SZ}")
    end = tick_of(body.end) if body.end else start + (body.duration or 0)
    name = "end" if body.end else "duration"
    if end <= max(start, now):
        raise bad(name, "the term would be over before it begins")
    if end - start > models.TERM_SECONDS_MAX:
        raise bad(name, f"a term lasts at most {models.TERM_SECONDS_MAX // 86_400} days")
    if end > FOREVER:
        raise bad(name, "the end is out of range")
    return Term(start, end)


def _broker(body: models.LeaseRequest, role: ServiceManager) -> Party:
    names = {party.name: party for party in role.brokers.values()}
    if body.broker is None and len(names) == 1:
        return next(iter(names.values()))
    if body.broker is None or body.broker not in names:
        raise bad("broker", f"one of: {', '.join(sorted(names))}")
    return names[body.broker]
