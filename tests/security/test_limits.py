"""BOUNDED at the edge: each limit against an actor that listens."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from shirako.actors.actor import Actor
from shirako.api import Tokens
from shirako.api.models import LeaseRequest
from shirako.certificates import client_context
from shirako.client import Client, Problem
from shirako.descriptor import read_descriptor
from shirako.transport.envelope import ENVELOPE_BYTES_MAX
from shirako.transport.limits import Buckets, Full, Limits, Places, neighbourhood
from tests.security.conftest import Deployment, come_true
from tests.security.lines import Line

GET = b"GET /.well-known/shirako HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOON = 0.4
"""Seconds for what dawdles here."""


@dataclass
class Door:
    """One actor that listens, and its limits' effects."""

    actor: Actor[Any]
    host: str
    port: int
    token: str
    lines: list[Line] = field(default_factory=list)

    async def connect(self, tls: ssl.SSLContext | None = None) -> Line:
        self.lines.append(Line(*await asyncio.open_connection(self.host, self.port, ssl=tls)))
        return self.lines[-1]

    async def enter(self) -> Line:
        """A connection that is answered, as soon as there is a place for it."""
        async with asyncio.timeout(10):
            while True:
                line = await self.connect()
                with contextlib.suppress(ConnectionError):
                    await line.say(GET)
                    if (await line.answer())[0] == 200:
                        return line
                line.close()
                await asyncio.sleep(0.01)

    def refused(self, kind: str) -> int:
        return self.actor.counters[f"refused.{kind}"]

    def was_refused(self, kind: str, times: int) -> bool:
        return self.refused(kind) == times


@asynccontextmanager
async def guest(deployment: Deployment, limits: Limits) -> AsyncIterator[Door]:
    async with deployment.apart("guest", limits=limits) as actors:
        at = urlsplit(deployment.url("guest"))
        token = deployment.tokens["guest"]
        door = Door(actors["guest"].actor, at.hostname or "", at.port or 0, token)
        try:
            yield door
        finally:
            for line in door.lines:
                line.close()
            await asyncio.sleep(0.01)


def post(length: int, more: str = "") -> bytes:
    head = f"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    return f"{head}{more}\r\n".encode()


# Time -------------------------------------------------------------------------------------------


async def test_a_header_that_does_not_end_is_hung_up_on(plain: Deployment) -> None:
    async with guest(plain, Limits(header_seconds=SOON)) as door:
        silent, slow, patient = [await door.connect() for _ in range(3)]
        await patient.say(GET)
        assert (await patient.answer())[0] == 200
        await slow.dribble(GET * 3)
        assert await slow.rest() == b""
        assert await silent.rest() == b""
        assert door.refused("slow") == 2
        # between two requests there is more time, but not within the next one
        await patient.say(GET)
        assert (await patient.answer())[0] == 200
        await patient.dribble(GET * 3)
        assert await patient.rest() == b""
        assert door.refused("slow") == 3


async def test_an_idle_connection_is_not_dawdling(plain: Deployment) -> None:
    async with guest(plain, Limits(header_seconds=SOON)) as door:
        line = await door.connect()
        await line.say(GET + GET)
        assert [(await line.answer())[0] for _ in range(2)] == [200, 200]
        await asyncio.sleep(2 * SOON)
        await line.say(GET)
        assert (await line.answer())[0] == 200
        assert door.refused("slow") == 0


@pytest.mark.parametrize("path", ["messages", "api/v1/leases"])
async def test_a_body_that_does_not_end_is_refused(plain: Deployment, path: str) -> None:
    async with guest(plain, Limits(header_seconds=SOON, body_seconds=2 * SOON)) as door:
        line = await door.connect()
        asking = post(1000, f"Authorization: Bearer {door.token}\r\n")
        await line.say(asking.replace(b"messages", path.encode()))
        dribbling = asyncio.create_task(line.dribble(b"x" * 500))
        status, _, problem = await line.answer()
        assert (status, problem["type"]) == (408, "urn:shirako:problem:slow")
        await line.rest()
        await dribbling
        assert door.refused("slow") == 1


async def test_a_late_body_does_not_take_its_refusal_with_it(plain: Deployment) -> None:
    """A connection that is closed with bytes unread is reset, and what was answered is lost.

    So what comes late is read and dropped: whoever reads only when all is sent is told as well.
    """
    async with guest(plain, Limits(header_seconds=20 * SOON, body_seconds=SOON)) as door:
        line = await door.connect()
        await line.say(post(ENVELOPE_BYTES_MAX))
        await come_true(lambda: door.refused("slow") == 1)
        for _ in range(10):
            await line.say(b"x" * (ENVELOPE_BYTES_MAX // 10))
            await asyncio.sleep(0.02)
        assert (await line.answer())[0] == 408
        assert door.actor.role.leases == {}


async def test_a_body_without_end_is_not_dropped_for_long(plain: Deployment) -> None:
    limits = Limits(header_seconds=2 * SOON, body_seconds=SOON, connections=1)
    async with guest(plain, limits) as door:
        line = await door.connect()
        await line.say(post(ENVELOPE_BYTES_MAX))
        await line.dribble(b"x" * 10_000)
        await door.enter()


async def test_a_body_that_takes_its_time_is_taken(plain: Deployment) -> None:
    async with guest(plain, Limits(header_seconds=SOON)) as door:
        line = await door.connect()
        await line.say(post(30))
        await line.dribble(b"x" * 30)
        assert (await line.answer())[0] == 401
        assert door.refused("slow") == 0


async def test_an_answer_that_nobody_fetches_is_given_up(plain: Deployment) -> None:
    async with guest(plain, Limits(send_seconds=SOON)) as door:
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect((door.host, door.port))
            raw.setblocking(False)
            asking = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
            loop = asyncio.get_running_loop()
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(10):
                    while not door.refused("slow"):
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(loop.sock_sendall(raw, asking * 50), 0.1)
        assert door.refused("slow") == 1


async def test_a_handshake_that_does_not_end_is_hung_up_on(one_way: Deployment) -> None:
    limits = Limits(header_seconds=SOON, connections_an_address=2)
    tls = client_context(one_way.certificates / "ca.pem", None, None)
    async with guest(one_way, limits) as door:
        lines = [await door.connect() for _ in range(2)]
        third = await door.connect()
        assert await third.rest() == b""
        assert door.refused("connections") == 1
        for line in lines:
            await line.rest()
        await come_true(lambda: door.refused("handshake") == 2)
        line = await door.connect(tls)
        await line.say(GET)
        assert (await line.answer())[0] == 200
        line.close()


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        (test_a_header_that_does_not_end_is_hung_up_on, "plain"),
        (test_an_answer_that_nobody_fetches_is_given_up, "plain"),
        (test_a_handshake_that_does_not_end_is_hung_up_on, "one_way"),
    ],
)
def test_the_same_on_the_loop_that_actors_run_on(
    check: Callable[[Deployment], Coroutine[Any, Any, None]],
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    """uvloop has transports and TLS of its own."""
    uvloop.run(check(request.getfixturevalue(kind)))


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(connections_an_address=3), 429), (Limits(connections=3), 503)],
)
async def test_connections(plain: Deployment, limits: Limits, status: int) -> None:
    async with guest(plain, limits) as door:
        lines = [await door.connect() for _ in range(3)]
        for line in lines:
            await line.say(GET)
            assert (await line.answer())[0] == 200
        for _ in range(5):
            refused, headers, problem = await (await door.connect()).answer()
            assert (refused, problem["type"]) == (status, "urn:shirako:problem:connections")
            assert int(headers["retry-after"]) > 0
        assert door.refused("connections") == 5
        await lines[0].say(GET)
        assert (await lines[0].answer())[0] == 200
        lines[0].close()
        await door.enter()


async def test_who_asks_at_once_hears_why_it_is_refused(plain: Deployment) -> None:
    """Also where its request is there before it is refused."""
    async with guest(plain, Limits(connections=1)) as door:
        await door.enter()
        for _ in range(20):
            with socket.create_connection((door.host, door.port)) as hasty:
                hasty.sendall(GET)
                hasty.setblocking(False)
                await come_true(
                    partial(door.was_refused, "connections", door.refused("connections") + 1)
                )
                hasty.sendall(GET)
                await asyncio.sleep(0.01)
                assert hasty.recv(65_536).startswith(b"HTTP/1.1 503 ")


async def test_those_who_are_refused_are_not_heard_out_without_end(
    plain: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shirako.transport.listening.FAREWELLS_MAX", 3)
    monkeypatch.setattr("shirako.transport.listening.FAREWELL_SECONDS", SOON)
    async with guest(plain, Limits(connections=1)) as door:
        await door.enter()
        lines = [await door.connect() for _ in range(10)]
        await come_true(partial(door.was_refused, "connections", 10))
        for line in lines:
            assert (await line.answer())[0] == 503
            await line.dribble(b"x" * 1000)
            assert await line.rest() == b""


async def test_a_flood_of_connections_leaves_nothing_behind(plain: Deployment) -> None:
    async with guest(plain, Limits(connections_an_address=20)) as door:
        for _ in range(5):
            before = door.refused("connections")
            lines = await asyncio.gather(*(door.connect() for _ in range(60)))
            await come_true(partial(door.was_refused, "connections", before + 40))
            for line in lines:
                line.close()
            for line in [await door.enter() for _ in range(20)]:
                line.close()


async def test_requests_with_one_token(plain: Deployment) -> None:
    limits = Limits(requests_a_second=0.1, burst=5)
    async with guest(plain, limits) as door, aiohttp.ClientSession() as session:
        url = plain.url("guest")

        async def ask(role: str) -> aiohttp.ClientResponse:
            headers = {"Authorization": f"Bearer {plain.tokens[role]}"}
            async with session.get(f"{url}/api/v1/status", headers=headers) as response:
                await response.read()
                return response

        answers = [await ask("guest") for _ in range(8)]
        assert [one.status for one in answers[:5]] == [200] * 5
        assert answers[-1].status == 429
        assert int(answers[-1].headers["Retry-After"]) > 0
        problem = await answers[-1].json(content_type="application/problem+json")
        assert problem["type"] == "urn:shirako:problem:rate"
        assert "0.1 requests a second" in problem["detail"]
        assert door.refused("rate") >= 1
        assert (await ask("site-admin")).status == 200, "another token has its own limit"
        async with session.get(f"{url}/api/v1/health") as response:
            assert response.status == 200


async def test_our_client_comes_again_later(plain: Deployment) -> None:
    async with guest(plain, Limits(requests_a_second=3.0, burst=1)) as door:
        async with Client(plain.url("guest"), door.token) as patient:
            await asyncio.gather(*(patient.status() for _ in range(3)))
        assert door.refused("rate") > 0
        async with Client(plain.url("guest"), door.token, attempts=1) as hasty:
            with pytest.raises(Problem, match="requests a second"):
                await asyncio.gather(*(hasty.status() for _ in range(5)))


async def test_streams(plain: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one token, and of all; the place of a client that is gone is the next one's."""
    monkeypatch.setattr("shirako.api.stream.HEARTBEAT_SECONDS", 0.1)
    tokens = Tokens(plain.descriptor.state)
    ann, bob, cay = (tokens.create(name, "guest") for name in ("ann", "bob", "cay"))
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(
            guest(plain, Limits(streams=3, streams_a_token=2)),
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"{plain.url('guest')}/api/v1/leases"
        wish = {"slice": "blue", "type": "node", "units": 1, "duration": "1h"}
        events = {}
        for secret in (ann, bob, cay):
            headers = {"Authorization": f"Bearer {secret}"}
            async with session.post(url, headers=headers, json=wish) as made:
                events[secret] = f"{url}/{(await made.json())['id']}/events"

        async def watch(secret: str) -> aiohttp.ClientResponse:
            headers = {"Authorization": f"Bearer {secret}"}
            answer = await session.get(events[secret], headers=headers)
            stack.callback(answer.close)
            return answer

        streams = [await watch(one) for one in (ann, ann, ann, bob, cay)]
        assert [one.status for one in streams] == [200, 200, 429, 200, 503]
        assert all(int(one.headers["Retry-After"]) > 0 for one in streams if one.status != 200)
        assert door.refused("streams") == 2
        streams[0].close()
        answer = streams[-1]
        async with asyncio.timeout(30):
            while answer.status == 503:
                await asyncio.sleep(0.1)
                answer = await watch(cay)
        assert answer.status == 200


async def test_leases_that_are_kept(plain: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    async with guest(plain, Limits()) as door, Client(plain.url("guest"), door.token) as client:
        wish = LeaseRequest(slice="blue", type="node", units=1, duration=3600)
        monkeypatch.setattr("shirako.actors.room.RECORDS_MAX", 1)
        await client.request_lease(wish)
        client._attempts = 1
        with pytest.raises(Problem, match="too many leases are kept here") as refused:
            await client.request_lease(wish)
        assert (refused.value.status, refused.value.kind) == (503, "overloaded")
        assert len(door.actor.role.leases) == 1


async def test_what_is_refused_for_now_was_not_begun(plain: Deployment) -> None:
    """Neither a lease that was asked for too often, nor one whose body came too late."""
    limits = Limits(requests_a_second=0.01, burst=1, body_seconds=SOON)
    wish = b'{"slice": "blue", "type": "node", "units": 1, "duration": "1h"}'
    asking = "POST /api/v1/leases HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n"
    async with guest(plain, limits) as door:
        late = await door.connect()
        head = asking.format(door.token) + f"Content-Length: {len(wish) + 1}\r\n\r\n"
        await late.say(head.encode() + wish)
        assert (await late.answer())[0] == 408
        often = await door.connect()
        head = asking.format(door.token) + f"Content-Length: {len(wish)}\r\n\r\n"
        await often.say(head.encode() + wish)
        assert (await often.answer())[0] == 429
        assert door.actor.role.leases == {}


async def test_limits_of_the_descriptor_hold(plain: Deployment) -> None:
    path = plain.descriptor.path
    text = path.read_text().replace("</actors>", '<limits connections="1"/></actors>')
    path.write_text(text)
    limited = Deployment(plain.folder, read_descriptor(path), plain.tokens)
    url = f"{plain.url('guest')}/api/v1/health"
    async with (
        limited.apart("guest"),
        aiohttp.ClientSession() as one,
        aiohttp.ClientSession() as other,
        one.get(url) as answer,
        other.get(url) as refused,
    ):
        assert (answer.status, refused.status) == (200, 503)


# Health ------------------------------------------------------------------------------------------


async def test_an_actor_that_may_not_act_says_so_and_when_to_come_again(
    plain: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guest(plain, Limits()) as door, aiohttp.ClientSession() as session:
        monkeypatch.setattr(door.actor, "acts", lambda: False)
        headers = {"Authorization": f"Bearer {door.token}"}
        for path in ("health", "status", "leases"):
            url = f"{plain.url('guest')}/api/v1/{path}"
            async with session.get(url, headers=headers) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                told = await answer.json(content_type="application/problem+json")
                assert told["type"] == "urn:shirako:problem:unavailable"


# Size -------------------------------------------------------------------------------------------


async def test_bodies(plain: Deployment) -> None:
    async with guest(plain, Limits()) as door:
        line = await door.connect()
        length = ENVELOPE_BYTES_MAX + 1
        await line.say(post(length))
        with contextlib.suppress(ConnectionError):
            await line.say(b"x" * length)
        assert (await line.answer())[0] == 413
        line = await door.connect()
        asking = post(300_000, f"Authorization: Bearer {door.token}\r\n")
        await line.say(asking.replace(b"messages", b"api/v1/leases"))
        assert (await line.answer())[0] == 413


async def test_headers(plain: Deployment) -> None:
    async with guest(plain, Limits()) as door:
        for header in ("X: " + "x" * 20_000, "\r\n".join(f"X{n}: x" for n in range(500))):
            line = await door.connect()
            await line.say(GET[:-2] + header.encode() + b"\r\n\r\n")
            heard = await line.rest()
            assert heard.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), heard


async def test_envelopes_half_read(plain: Deployment) -> None:
    """Who sends much and never ends it takes room from no one for long, and no memory beyond it."""
    limits = Limits(reading_bytes=100_000, body_seconds=5 * SOON)
    async with guest(plain, limits) as door:
        greedy = await door.connect()
        await greedy.say(post(200_000) + b"x" * 90_000)
        status = 0
        while status != 503:  # what was sent is there when it is there
            assert status in (0, 401)
            other = await door.connect()
            await other.say(post(20_000) + b"x" * 20_000)
            status, headers, problem = await other.answer()
        assert (status, problem["title"]) == (503, "overloaded")
        assert int(headers["retry-after"]) > 0
        assert (await greedy.answer())[0] == 408
        later = await door.connect()
        await later.say(post(90_000) + b"x" * 90_000)
        assert (await later.answer())[0] == 401


async def test_envelopes_that_wait(plain: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site has something to say to its broker, which is too busy for a while."""
    monkeypatch.setattr("shirako.actors.actor.QUEUE_MAX", 0)
    async with plain.apart("broker") as brokers, plain.apart("site"):
        broker = brokers["broker"].actor
        await come_true(lambda: broker.counters["refused.overloaded"] > 0)
        assert broker.role.delegations == {}
        monkeypatch.undo()
        await come_true(lambda: broker.role.delegations)


# What counts ------------------------------------------------------------------------------------


@given(
    rate=st.floats(0.5, 100),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 2), max_size=200),
)
def test_a_bucket_never_gives_more_than_it_says(
    rate: float, burst: int, pauses: list[float]
) -> None:
    now = 0.0
    buckets = Buckets(Limits(requests_a_second=rate, burst=burst), lambda: now)
    taken: list[float] = []
    for pause in pauses:
        now += pause
        if buckets.take("ann"):
            taken.append(now)
    for first, begin in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - begin) + 1e-6
    now += burst / rate + 1e-6
    assert all(buckets.take("ann") for _ in range(burst)), "who was quiet may ask again"
    assert not buckets.take("ann")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=60))
def test_places_are_as_many_as_are_held(moves: list[tuple[bool, int]]) -> None:
    places = Places(Limits(connections=6, connections_an_address=2))
    held: dict[int, list[Any]] = {n: [] for n in range(5)}
    for comes, who in moves:
        if comes:
            total = sum(map(len, held.values()))
            full = 429 if len(held[who]) >= 2 else 503 if total >= 6 else 0
            if full:
                with pytest.raises(Full) as caught:
                    places.take(f"192.0.2.{who}")
                assert caught.value.status == full
            else:
                held[who].append(places.take(f"192.0.2.{who}"))
        elif held[who]:
            leave = held[who].pop()
            leave()
            leave()
        assert places.taken == sum(map(len, held.values()))


def test_what_is_one_address() -> None:
    assert neighbourhood("192.0.2.1") == neighbourhood("::ffff:192.0.2.1") == "192.0.2.1"
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1%eth0")
    assert neighbourhood("2001:db8::1") != neighbourhood("2001:db8:0:1::1")


def test_connections_leave_file_descriptors_for_other_things(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for soft, expected in ((1024, 512), (1_000_000, 2048), (-1, 2048), (1, 1)):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        assert Limits().connections == expected
