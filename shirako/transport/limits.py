"""All limits of the HTTP edge (BOUNDED): what a client may use, and what it is told beyond that.

What is in `Limits` is set by `<limits/>` in `actors.xml`; what is not is the same everywhere, since
peers count on it.

| limit | where | beyond it |
| --- | --- | --- |
| an envelope 1 MiB, 512 messages | `envelope.ENVELOPE_BYTES_MAX`, `MESSAGES_MAX` | 413 |
| a request's body 256 KiB | `api.routes.BODY_BYTES_MAX` | 413 |
| request line and each header 8 KiB, 128 headers | aiohttp | 400 |
| connections in all, and from an address | `Limits` | 503 or 429, over TLS hung up |
| TLS handshake, and a request's header | `Limits.header_seconds` | hung up |
| a request's body | `Limits.body_seconds` | 408 |
| an answer that is not fetched | `Limits.send_seconds` | hung up |
| requests with one token | `Limits.requests_a_second`, `burst` | 429 |
| envelopes half read | `Limits.reading_bytes` | 503 |
| requests under way | one a connection | waits |
| things that wait for an actor's turn | `actors.actor.QUEUE_MAX` | 503 |
| event streams in all, and with one token | `Limits.streams`, `streams_a_token` | 503, 429 |
| leases that an actor keeps | `actors.room.RECORDS_MAX` | 503 |
| live leases of one guest, at a broker or a site | `Limits.leases_a_guest` | `overloaded` |
| half of the leases that an actor keeps | shared out: `actors.room` | `overloaded` |
| a delegation that is over | `actors.role.TOMBSTONE_TICKS` | forgotten when no lease needs it |
| proofs looked for in one tick | `actors.authority.SEARCHES_MAX` | refused without a proof |
| tokens | `api.tokens.TOKENS_MAX` | refused by `shirako token` |

429 and 503 carry `Retry-After`; `overloaded` is said of a message, and its sender tries again.
Each refusal is counted in the actor's `/status`, as `refused.*`.
Whatever is answered 408, 413 or 429 was not begun.
"""

from __future__ import annotations

import ipaddress
import resource
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

CONNECTIONS_MAX = 2048
LEASES_A_GUEST = 10_000
NAMES_REMEMBERED = 10_000


def affordable_connections() -> int:
    """Half of the file descriptors that this process may open: ledgers and nodes need some, too.

    `ulimit -n`, or systemd's `LimitNOFILE`, raises it, up to `CONNECTIONS_MAX`.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft < 0 else max(min(CONNECTIONS_MAX, soft // 2), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may differ from one deployment to another; seconds, bytes and counts."""

    connections: int = field(default_factory=affordable_connections)
    """Open at once, to all actors of this process."""
    connections_an_address: int = 256
    """Of these, from one IPv4 address or one IPv6 /64. A proxy before an actor is one address."""
    header_seconds: float = 10.0
    """From a connection's start, or the first byte of a later request, to the header's end; and
    for a TLS handshake."""
    body_seconds: float = 60.0
    """From the header's end to the body's."""
    send_seconds: float = 60.0
    """For a client to fetch what waits to be sent to it."""
    idle_seconds: float = 75.0
    """Between two requests. Longer than a peer keeps an idle connection, so that no request of
    its meets one just closed."""
    requests_a_second: float = 50.0
    """With one token, at one actor, on the average ..."""
    burst: int = 200
    """... and at once, after a while without any."""
    reading_bytes: int = 128 * 1024 * 1024
    """Of envelopes that have not come to their end."""
    streams: int = 1000
    """Of events, open at once at one actor ..."""
    streams_a_token: int = 100
    """... and of these with one token."""
    leases_a_guest: int = LEASES_A_GUEST
    """That live at the same time, of one guest at one broker or site."""


class Full(Exception):
    """There is no place; `status` is the HTTP status that says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Places:
    """Who is connected: counts, and no more."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._near: Counter[str] = Counter()
        self.taken = 0

    def take(self, address: str) -> Callable[[], None]:
        """A place for `address`; what is returned gives it back, once. Raises `Full`."""
        near = neighbourhood(address)
        if self._near.get(near, 0) >= self._limits.connections_an_address:
            raise Full(429)
        if self.taken >= self._limits.connections:
            raise Full(503)
        self._near[near] += 1
        self.taken += 1
        held = [near]

        def leave() -> None:
            if held:
                self._leave(held.pop())

        return leave

    def _leave(self, near: str) -> None:
        self._near[near] -= 1
        if not self._near[near]:
            del self._near[near]
        self.taken -= 1


def neighbourhood(address: str) -> str:
    """What counts as one address: a /64 of IPv6 is what one customer has, at the least."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))


class Buckets:
    """A token bucket a name. `seconds` tells the time; only differences of it are used."""

    def __init__(self, limits: Limits, seconds: Callable[[], float]) -> None:
        self._rate = limits.requests_a_second
        self._burst = float(limits.burst)
        self._seconds = seconds
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What is left and when that was so; the name that was quiet longest is the first."""

    def take(self, name: str) -> bool:
        """Whether one more request of this name is within its limit."""
        now = self._seconds()
        level, since = self._levels.pop(name, (self._burst, now))
        level = min(level + (now - since) * self._rate, self._burst)
        allowed = level >= 1.0
        self._levels[name] = (level - 1.0 if allowed else level, now)
        if len(self._levels) > NAMES_REMEMBERED:
            self._levels.popitem(last=False)
        return allowed
