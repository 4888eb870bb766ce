"""The simulated network: delay, loss, repetition, reordering and partitions.

Both legs of a post take time, and each may be lost by itself. A sender waits for an answer for a
bounded time; what it gave up may still arrive. A copy of an envelope may arrive again at any time.
Addresses without anybody behind them answer nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from shirako.simulation.chance import Stream, stream
from shirako.simulation.facts import Facts, Posted
from shirako.simulation.faults import Injector
from shirako.simulation.loop import Life, VirtualLoop
from shirako.transport import Unreachable
from shirako.transport.envelope import Rejected

ANSWER_SECONDS = 8.0
"""How long a sender waits for an answer."""
LATE_SECONDS = 45.0
COPY_SECONDS = 60.0
REPLAY_SECONDS = 600.0
PARTITION_SECONDS = 90.0


class Door(Protocol):
    """Whoever may be behind an address."""

    name: str

    @property
    def life(self) -> Life | None:
        """The life that answers now; None: nobody does."""
        ...

    def receive(self, data: bytes) -> Coroutine[Any, Any, bytes]:
        """Take an envelope, as a part of that life."""
        ...


class Network:
    """All wires of one world."""

    def __init__(self, loop: VirtualLoop, seed: int, injector: Injector, facts: Facts) -> None:
        self._loop = loop
        self._seed = seed
        self._injector = injector
        self._facts = facts
        self._doors: dict[str, Door] = {}
        self._blocked: dict[tuple[str, str], float] = {}
        """(from, to) -> until when nothing gets through."""
        self._delays: dict[tuple[str, str], tuple[Stream, float]] = {}

    def listen(self, url: str, door: Door) -> None:
        self._doors[url] = door

    @property
    def names(self) -> list[str]:
        return [door.name for door in self._doors.values()]

    def part(self, one: str, other: str, how: Stream) -> str:
        """Cut what one says off from the other, or both ways, for a while; tells how."""
        until = self._loop.now + how.uniform(2.0, how.choice((15.0, PARTITION_SECONDS)))
        ways = how.choice(("both", "there", "back"))
        if ways != "back":
            self._blocked[one, other] = until
        if ways != "there":
            self._blocked[other, one] = until
        return f"{ {'both': 'neither way', 'there': 'not there', 'back': 'not back'}[ways] }"

    def mute(self, one: str, other: str, seconds: float) -> None:
        """Nothing of what one says gets to the other for so long."""
        self._blocked[one, other] = self._loop.now + seconds

    def heal(self) -> None:
        self._blocked.clear()

    # Posting ----------------------------------------------------------------------------------

    async def post(self, sender: str, url: str, envelope: bytes) -> bytes:
        """What a transport's `post` does; raises `Unreachable`."""
        answered: asyncio.Future[bytes] = self._loop.create_future()
        door = self._doors.get(url)
        name = door.name if door is not None else url
        posted = self._facts.posted(sender, name, envelope)
        give_up = self._loop.after(ANSWER_SECONDS, _fail, answered, "no answer in time")
        if door is not None:
            self._depart(posted, door, answered)
        try:
            return await answered
        finally:
            give_up.cancel()

    def inject(self, sender: str, url: str, envelope: bytes) -> None:
        """Send something without waiting for what becomes of it."""
        door = self._doors.get(url)
        if door is not None:
            posted = self._facts.posted(sender, door.name, envelope, raw=True)
            self._loop.after(self._delay(sender, door.name), self._arrive, posted, door, None)

    def _depart(self, posted: Posted, door: Door, answered: asyncio.Future[bytes]) -> None:
        sender, name = posted.sender, posted.receiver
        place = f"{sender}>{name}"
        strike, loop = self._injector.strike, self._loop
        how = strike("duplicated", place)
        if how is not None:
            after = how.uniform(0.0, how.choice((0.2, 3.0, COPY_SECONDS)))
            loop.after(after, self._arrive, posted, door, None)
        how = strike("replayed", place)
        if how is not None:
            after = how.uniform(COPY_SECONDS, REPLAY_SECONDS)
            loop.after(after, self._arrive, posted, door, None)
        if strike("request_lost", place) is not None:
            return
        delay = self._delay(sender, name)
        how = strike("late", place)
        if how is not None:
            delay += how.uniform(0.5, how.choice((3.0, LATE_SECONDS)))
        if self._is_blocked(sender, name):
            return
        loop.after(delay, self._arrive, posted, door, answered)

    def _arrive(self, posted: Posted, door: Door, answered: asyncio.Future[bytes] | None) -> None:
        life = door.life
        if life is None:
            if answered is not None:
                _fail(answered, "nobody listens")
            return
        self._facts.arrived(posted)
        task = life.spawn(door.receive(posted.envelope))
        task.add_done_callback(lambda done: self._taken(posted, done, answered))

    def _taken(
        self,
        posted: Posted,
        done: asyncio.Task[bytes],
        answered: asyncio.Future[bytes] | None,
    ) -> None:
        """The receiver has answered, refused the envelope, or died over it."""
        sender, name = posted.sender, posted.receiver
        answer: bytes | None = None
        refused = "the connection was lost"
        if not done.cancelled():
            error = done.exception()
            if error is None:
                answer = done.result()
                self._facts.acknowledged(posted, answer)
            elif isinstance(error, Rejected):
                refused = f"refused: {error}"
                self._facts.rejected(posted, error)
            else:
                refused = f"{type(error).__name__}: {error}"
                self._facts.broke(name, refused)
        if answered is None:
            return
        if self._injector.strike("answer_lost", f"{name}>{sender}") is not None:
            return
        if self._is_blocked(name, sender):
            return
        delay = self._delay(name, sender)
        if answer is None:
            self._loop.after(delay, _fail, answered, refused)
        else:
            self._loop.after(delay, _answer, answered, answer)

    def _is_blocked(self, sender: str, receiver: str) -> bool:
        until = self._blocked.get((sender, receiver))
        return until is not None and self._loop.now < until

    def _delay(self, sender: str, receiver: str) -> float:
        known = self._delays.get((sender, receiver))
        if known is None:
            source = stream(self._seed, f"wire {sender}>{receiver}")
            known = self._delays[sender, receiver] = (source, source.uniform(0.001, 0.05))
        source, base = known
        return base * (0.5 + source.random())


def _fail(answered: asyncio.Future[bytes], why: str) -> None:
    if not answered.done():
        answered.set_exception(Unreachable(why))


def _answer(answered: asyncio.Future[bytes], data: bytes) -> None:
    if not answered.done():
        answered.set_result(data)


class Wire:
    """One incarnation's transport."""

    def __init__(self, network: Network, sender: str, life: Life) -> None:
        self._network = network
        self._sender = sender
        self._life = life

    async def post(self, url: str, envelope: bytes) -> bytes:
        if self._life.dead:
            raise asyncio.CancelledError
        return await self._network.post(self._sender, url, envelope)

    async def close(self) -> None:
        """Nothing to give back."""
