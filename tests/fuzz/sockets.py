"""Bytes to the socket of a running actor: what is no HTTP, and HTTP with something wrong in it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from tests.fuzz.deployment import Deployment
from tests.fuzz.mutation import change_bytes

AT_ONCE = 24
PATIENCE_SECONDS = 0.5
"""For an answer to what may be half a request, before we say that nothing more comes."""
_STATUS = re.compile(rb"HTTP/(?:0\.9|1\.[01]) ([0-9]{3}) ")


def requests(deployment: Deployment, name: str) -> list[bytes]:
    """Requests in order, to begin with: each route's method and path, with and without a body."""
    token = deployment.tokens["guest" if name == "guest" else "viewer"]
    document = deployment.rest(name, "viewer").get("/openapi.json")
    (over,) = deployment.leases[1:]
    made = [_request("GET", "/.well-known/shirako", token), _request("POST", "/messages", token)]
    for path, methods in document["paths"].items():
        filled = path.format(id=over, holder=deployment.kid, name="n0")
        made += [
            _request(method.upper(), filled, token)
            for method in methods
            if not path.endswith("/events")
        ]
    return made


def _request(method: str, path: str, token: str) -> bytes:
    body = b'{"reason": "x"}' if method != "GET" else b""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Idempotency-Key: k\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def garbage(seeds: Sequence[bytes], number: int, seed: int) -> list[bytes]:
    """Changed requests, and bytes of any kind."""
    chance = Random(seed)
    made = [change_bytes(chance.choice(seeds), seeds, chance) for _ in range(number * 9 // 10)]
    return made + [chance.randbytes(chance.randrange(1, 2000)) for _ in range(number - len(made))]


async def talk(
    url: str, sent: Sequence[bytes], patience: float = PATIENCE_SECONDS
) -> tuple[Counter[str], list[bytes]]:
    """What became of each, by status (or `hung up`); and those that were answered with a 5xx, or
    with something that is no HTTP."""
    where = urlsplit(url)
    found: Counter[str] = Counter()
    bad: list[bytes] = []
    places = asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes) -> None:
        async with places:
            answer = await _answer(str(where.hostname), int(where.port or 80), data, patience)
        statuses = [status.decode() for status in _STATUS.findall(answer)]
        found.update(statuses or ["hung up"])
        if any(status.startswith("5") for status in statuses) or (answer and not statuses):
            bad.append(data)

    await asyncio.gather(*(one(data) for data in sent))
    return found, bad


async def _answer(host: str, port: int, data: bytes, patience: float) -> bytes:
    """All that comes back."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    try:
        writer.write(data)
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            answer = await asyncio.wait_for(reader.read(65536), patience)
        if writer.can_write_eof():
            writer.write_eof()
        answer += await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        pass  # it hung up while we spoke
    finally:
        writer.close()
    return answer


def memory(deployment: Deployment, name: str) -> int:
    """Kilobytes of memory that an actor's process holds now."""
    pid = deployment.processes._running[name].pid
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1])


def kept(deployment: Deployment, name: str) -> list[Any]:
    """What an actor has in its books, as its API tells."""
    paths = {
        "guest": ("/leases?limit=1000",),
        "site": ("/site/leases?limit=1000", "/site/nodes", "/site/delegations"),
        "broker": ("/broker/leases?limit=1000", "/broker/delegations", "/broker/calendar"),
    }
    rest = deployment.rest(name)
    return [rest.until(path, bool) for path in paths[name]]
