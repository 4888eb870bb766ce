"""Delivers one actor's messages to one peer: in order, batched, again and again until taken.

What gathers while an envelope is under way goes into the next one; there is no timer that waits
for more. Nothing is kept here that is not in the ledger: after a crash the records say what has
still to be said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from shirako.clock import Clock, Entropy
from shirako.core import messages
from shirako.core.claims import Party
from shirako.core.machine import Key
from shirako.core.messages import Message
from shirako.transport import Transport, Unreachable
from shirako.transport.envelope import (
    Refusal,
    read_acknowledgement,
    seal,
)
from shirako.trust import PrivateKey, PublicKey, Untrusted, lineage_of

LOAD_MESSAGES_MAX = 64
"""Messages in one of our envelopes. Fewer than a peer would take: while it works on the first of
several we work on the next, instead of all actors waiting for whoever has the one big batch."""
ENVELOPE_MESSAGE_BYTES_MAX = 600_000
"""Encoded messages in one envelope; base64 makes a third more of it, and 1 MiB is the limit."""
PAUSE_SECONDS_MIN = 0.2
PAUSE_SECONDS_MAX = 5.0
BUSY_PAUSE_SECONDS = 0.3
TROUBLES_MAX = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that the peer has durably, or refused for good."""

    peer: str
    kind: str
    key: Key
    message: Message
    refusal: Refusal | None = None


@dataclass(slots=True)
class _Waiting:
    messages: tuple[Message, ...]
    encoded: list[bytes]
    not_before: float = 0.0
    refused: int = 0
    """How often the peer has put these off."""


class Courier:
    """Runs as one task for as long as there is something to say to the peer."""

    def __init__(
        self,
        key: PrivateKey,
        peer: Party,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        delivered: Callable[[list[Delivery]], None],
        acts: Callable[[], bool],
        heard: Callable[[str, tuple[str, ...]], None] = lambda _peer, _lineage: None,
    ) -> None:
        """`acts`: whether we may speak now, asked before each attempt.

        `heard`: told with which key the peer acknowledges; raises `Untrusted` for a retired one.
        """
        self._key = key
        self._peer = peer
        self._peer_key = PublicKey(peer.x)
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._delivered = delivered
        self._acts = acts
        self._heard = heard
        self._waiting: dict[tuple[str, Key], _Waiting] = {}
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self._up = asyncio.Event()
        self._troubles: set[str] = set()
        """What was logged since the peer could be reached last."""
        self.failures = 0
        """Attempts that failed since the last that worked; 0: the peer is up."""
        self.unreachable_since: int | None = None
        """Tick of the first of these; None: the peer is up."""

    def put(self, kind: str, key: Key, unacked: tuple[Message, ...]) -> None:
        """What is to be said about one thing now; it replaces what was to be said before."""
        where = (kind, key)
        known = self._waiting.get(where)
        if not unacked:
            if known is not None:
                del self._waiting[where]
            return
        if known is None or known.messages != unacked:
            self._waiting[where] = _Waiting(unacked, [messages.encode(m) for m in unacked])
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"courier to {self._peer.name}"
            )

    def peer_is_up(self) -> None:
        """The peer has spoken to us: try now what failed, instead of after the pause."""
        self._up.set()

    @property
    def idle(self) -> bool:
        return self._task is None and not self._waiting

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                load = self._load(loop.time())
                if not load or not self._acts():
                    await asyncio.sleep(BUSY_PAUSE_SECONDS)
                    continue
                if await self._send(load):
                    self.failures, self.unreachable_since = 0, None
                else:
                    self.failures += 1
                    self.unreachable_since = self.unreachable_since or self._clock.tick()
                    await self._rest()
        finally:
            self._task = None

    async def _rest(self) -> None:
        self._up.clear()
        try:
            async with asyncio.timeout(self._pause()):
                await self._up.wait()
        except TimeoutError:
            pass

    def _pause(self) -> float:
        doubled = PAUSE_SECONDS_MIN * 2.0 ** min(self.failures - 1, 10)
        return min(doubled, PAUSE_SECONDS_MAX) * self._entropy.jitter()

    def _load(self, now: float) -> list[tuple[tuple[str, Key], Message, bytes]]:
        """The next envelope's messages; all of one thing, in order, or none of it."""
        load: list[tuple[tuple[str, Key], Message, bytes]] = []
        size = 0
        for where, waiting in self._waiting.items():
            if waiting.not_before > now:
                continue
            size += sum(map(len, waiting.encoded))
            full = len(load) + len(waiting.messages) > LOAD_MESSAGES_MAX
            if load and (full or size > ENVELOPE_MESSAGE_BYTES_MAX):
                break
            load.extend(
                (where, m, raw) for m, raw in zip(waiting.messages, waiting.encoded, strict=True)
            )
        return load

    async def _send(self, load: list[tuple[tuple[str, Key], Message, bytes]]) -> bool:
        now_ms = self._clock.milliseconds()
        self._number = max(self._number + 1, now_ms)
        said = [raw for _, _, raw in load]
        envelope = seal(self._key, self._peer.kid, self._number, now_ms, said)
        try:
            answer = await self._transport.post(self._peer.url, envelope)
            taken = read_acknowledgement(answer, self._peer_key, self._key.public.kid, self._number)
            self._heard(self._peer.kid, lineage_of(answer.decode("ascii")))
        except (Unreachable, Untrusted) as error:
            self._note_trouble(str(error))
            return False
        if self._troubles:
            log.warning("%s is back", self._peer.name)
            self._troubles.clear()
        self._account(load, {refusal.index: refusal for refusal in taken.refused})
        return True

    def _note_trouble(self, why: str) -> None:
        """Log each reason once: a later one may be the one to mend."""
        if why not in self._troubles and len(self._troubles) < TROUBLES_MAX:
            self._troubles.add(why)
            log.warning("%s can not be reached, trying on: %s", self._peer.name, why)

    def _account(
        self,
        load: list[tuple[tuple[str, Key], Message, bytes]],
        refused: dict[int, Refusal],
    ) -> None:
        done: list[Delivery] = []
        for index, (where, message, _) in enumerate(load):
            refusal = refused.get(index)
            waiting = self._waiting.get(where)
            if refusal is not None and refusal.retry:
                if waiting is not None:
                    self._put_off(waiting)
                continue
            done.append(Delivery(self._peer.kid, *where, message, refusal))
            if waiting is not None:
                self._drop(where, waiting, message)
        self._delivered(done)

    def _put_off(self, waiting: _Waiting) -> None:
        """The peer is not ready for it: later, and the later the more often it says so."""
        pause = min(BUSY_PAUSE_SECONDS * 2.0 ** min(waiting.refused, 10), PAUSE_SECONDS_MAX)
        waiting.refused += 1
        now = asyncio.get_running_loop().time()
        waiting.not_before = now + pause * self._entropy.jitter()

    def _drop(self, where: tuple[str, Key], waiting: _Waiting, message: Message) -> None:
        rest = [
            (m, raw)
            for m, raw in zip(waiting.messages, waiting.encoded, strict=True)
            if m.n > message.n
        ]
        if rest:
            self._waiting[where] = _Waiting(
                tuple(m for m, _ in rest), [raw for _, raw in rest], waiting.not_before
            )
        else:
            del self._waiting[where]
