"""The loop of an actor: gather what happened, step, commit once, then perform.

One turn takes everything that waits (messages, commands, ended handlers, due timers), lets the
role step its records, and commits all changes in one ledger transaction. Only then are messages
delivered, handlers started, callers answered. So nothing that anybody was told can be lost, and
the cost of a commit is shared by all that came in the meantime.

Recovery is loading, and performing what the records ask for. A commit that fails, or a step that
breaks, is treated as a crash would be: memory is dropped and loaded again (rule 15).
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import logging
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from shirako.actors import restored
from shirako.actors.audit import note
from shirako.actors.courier import Courier, Delivery
from shirako.actors.handling import Handling, Performer
from shirako.actors.restored import Restored
from shirako.actors.role import Batch, Kept, Refused, Role
from shirako.clock import Clock, Entropy, utc
from shirako.core.claims import Party
from shirako.core.lineage import Disowned, Forked
from shirako.core.machine import HandlerEnded, IllegalTransition, Key, Record, Work
from shirako.ledger import (
    CommitFailed,
    Ledger,
    LedgerError,
    LedgerLost,
    SharedLedger,
    decode_entries,
)
from shirako.transport import Transport
from shirako.transport.envelope import Opened, Refusal, Rejected, acknowledge, open_envelope
from shirako.trust import PrivateKey, PublicKey, Untrusted

QUEUE_MAX = 20_000
"""Things waiting for the next turn; beyond it envelopes are refused as overloaded (BOUNDED)."""
TURN_MAX = 2_000
"""Things taken in one turn: bounds how long a commit makes the first of them wait."""
ENVELOPES_REMEMBERED = 64
PEERS_REMEMBERED = 10_000
SPEAKING = ("lease", "delegation", "given")
"""Kinds of things that may have something to send, run or wake."""
FLUSH_SECONDS = 2.0
HOLD_LOOK_SECONDS = 0.5
"""How often an idle actor looks whether its ledger is still its own, where that may change."""
RELOAD_SECONDS = 0.5
BROKEN_TIMER_TICKS = 60
"""Before a timer whose step broke is tried again."""

log = logging.getLogger(__name__)

RoleT = TypeVar("RoleT", bound=Role[Any])
T = TypeVar("T")


@dataclass(slots=True)
class _Item:
    """Something for the next turn: what to do to the role, and who waits for it."""

    act: Callable[[Any, int], Any]
    done: asyncio.Future[Any] | None = None
    outcome: Any = None
    error: Exception | None = None


class Actor(Generic[RoleT]):
    """One running actor. Everything but the role is the same for all three."""

    def __init__(
        self,
        *,
        party: Party,
        key: PrivateKey,
        open_role: Callable[[], RoleT],
        ledger: Ledger,
        transport: Transport,
        performer: Performer,
        clock: Clock,
        entropy: Entropy,
        skew: int,
        lineages: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        """`open_role` makes an empty role; it is called again whenever memory is dropped.

        `lineages`: by identity, the successions that the operator knows of pinned actors.
        """
        self.party = party
        self.role: RoleT = open_role()
        self.clock = clock
        self.entropy = entropy
        self.performer = performer
        self.counters: Counter[str] = Counter()
        """Refused envelopes and messages by what was wrong with them, and other counts."""
        self.skews: dict[str, int] = {}
        """Measured milliseconds that each peer's clock is ahead of ours."""
        self._key = key
        self._open_role = open_role
        self._ledger = ledger
        self._transport = transport
        self._holder = ledger if isinstance(ledger, SharedLedger) else None
        self._skew_ms = skew * 1000
        self._lineages = lineages
        self._forks_told: set[str] = set()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{party.name} ledger")
        self._queue: list[_Item] = []
        self._stirred = asyncio.Event()
        self._committed = asyncio.Event()
        self._committed.set()
        self._timers: list[tuple[int, str, Key]] = []
        self._postponed: dict[Key, int] = {}
        """Timers whose step broke -> the tick at which they are tried again: one record that no
        step can be made of does not stop all others."""
        self._wakes: dict[tuple[str, Key], int] = {}
        """The tick that each thing is to be woken at; other entries of the heap are outdated."""
        self.couriers: dict[str, Courier] = {}
        """Who delivers to each peer that something was said to, by its thumbprint."""
        self.handling = Handling(performer, clock, entropy, self._ended, self._tell, self.acts)
        self._windows: OrderedDict[str, OrderedDict[int, asyncio.Future[bytes]]] = OrderedDict()
        self._known: dict[str, PublicKey] = {}
        self._watchers: defaultdict[Key, dict[asyncio.Event, None]] = defaultdict(dict)
        self._warned: dict[tuple[str, str], int] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._hold_task: asyncio.Task[None] | None = None
        self._stopped = False
        self.ended = asyncio.Event()
        """Set when the actor can not go on; `why_ended` says why."""
        self.why_ended: BaseException | None = None

    # Life -------------------------------------------------------------------------------------

    @property
    def key(self) -> PrivateKey:
        """What it signs with."""
        return self._key

    async def start(self) -> None:
        """Load the ledger and go on where it ends."""
        self._load()
        if self.role.restored is not None:
            self._begin_restored(self.role.restored)
        self._loop_task = asyncio.get_running_loop().create_task(
            self._run(), name=f"actor {self.party.name}"
        )
        self._loop_task.add_done_callback(self._loop_ended)
        if self._holder is not None:
            self._hold_task = asyncio.get_running_loop().create_task(self._watch_hold())

    def _begin_restored(self, known: Restored) -> None:
        if self.role.held:
            log.warning(
                "%s was restored from a backup of %s and is held: nothing ends, is sold or cleaned "
                "until an operator confirms it: shirako recover",
                self.party.name,
                f"{utc(known.taken):%Y-%m-%d %H:%M:%S}Z",
            )
        now_ms = self.clock.milliseconds()
        self._put(_Item(lambda role, now: role.begin_restored(now_ms, now)))

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """The ledger can be neither written nor read again: nobody may wait for an answer."""
        if not task.cancelled():
            self._can_not_go_on(task.exception())

    def _can_not_go_on(self, why: BaseException | None) -> None:
        if self.ended.is_set():
            return
        self.why_ended = why
        log.error("%s can not go on: %s", self.party.name, why)
        self._stopped = True
        self._refuse_all(self._queue, "the actor can not go on")
        self._queue.clear()
        self.ended.set()
        if self._loop_task is not None:
            self._loop_task.cancel()

    # Holding the ledger -----------------------------------------------------------------------

    def acts(self) -> bool:
        """Whether this copy of the actor may act and answer now: no other has taken over."""
        if self._holder is None:
            return not self._stopped
        try:
            return self._holder.held()
        except LedgerLost as lost:
            self._can_not_go_on(lost)
            return False

    async def _watch_hold(self) -> None:
        while not self.ended.is_set():
            self.acts()
            await asyncio.sleep(HOLD_LOOK_SECONDS)

    async def stop(self) -> None:
        """Stop at once; what is not committed did not happen."""
        for task in (self._hold_task, self._loop_task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._stopped = True
        self._refuse_all(self._queue, "the actor is stopping")
        await asyncio.gather(*(courier.stop() for courier in self.couriers.values()))
        await self.handling.stop()
        self._writer.shutdown(wait=True)
        self._ledger.close()

    def _load(self) -> None:
        role = self._open_role()
        role.skews_ms = self.skews
        collects = gc.isenabled()
        gc.disable()  # millions of new objects, none of them in a circle
        try:
            for kind, name, body in self._ledger.load():
                role.load(kind, name, body)
            role.loaded()
            role.lineages.pin(self._lineages)
        finally:
            if collects:
                gc.enable()
        last = self._ledger.last_link()
        if last is not None:
            self.clock.not_before(max(entry.tick for entry in decode_entries(last.body)))
        self.role = role
        self._known = {kid: PublicKey(party.x) for kid, party in role.pinned.items()}
        self._timers.clear()
        self._wakes.clear()
        self._perform_all()

    # Doors ------------------------------------------------------------------------------------

    async def receive(self, data: bytes) -> bytes:
        """Take an envelope; returns the acknowledgement once its messages are durable.

        Raises `Rejected` when the envelope as a whole is not taken.
        """
        now_ms = self.clock.milliseconds()
        try:
            opened = open_envelope(data, self.party.kid, now_ms, self._skew_ms, self._known)
            if len(self._queue) >= QUEUE_MAX:
                raise Rejected(503, "overloaded", "too much is waiting here; try again later")
            if not self.acts():
                raise Rejected(503, "not_holder", "another copy of this actor may be acting now")
            self._check_speaker(opened)
        except Rejected as rejected:
            self._refused("?", rejected.kind, str(rejected))
            raise
        return await self._once(opened, now_ms)

    def _check_speaker(self, opened: Opened) -> None:
        """Raise `Rejected` when a later key than the envelope's speaks for its sender."""
        identity = opened.sender.kid
        try:
            self.role.lineages.check_speaker(identity, opened.lineage)
        except Disowned as error:
            self._tell_of_fork(identity, error)
            raise Rejected(401, error.kind, str(error)) from error

    def _heard(self, identity: str, lineage: tuple[str, ...]) -> None:
        """A peer has acknowledged with this key; raises `Untrusted` when it may not speak."""
        try:
            self.role.lineages.check_speaker(identity, lineage)
        except Disowned as error:
            self._tell_of_fork(identity, error)
            self.counters[f"refused.{error.kind}"] += 1
            raise Untrusted(str(error)) from error
        if len(lineage) > self.role.lineages.number(identity):
            self._put(_Item(lambda role, now: role.meet(identity, lineage, now)))

    def _tell_of_fork(self, identity: str, error: Disowned) -> None:
        """Once a life in the audit record: that two keys claim to be an actor's is for a person."""
        if isinstance(error, Forked) and identity not in self._forks_told:
            self._forks_told.add(identity)  # bounded: only of actors whose lineage we keep
            about, text = f"peer/{identity}", str(error)
            self._put(_Item(lambda role, now: note(role, about, now, "KeyForked", "?", text)))

    async def _once(self, opened: Opened, now_ms: int) -> bytes:
        """Process an envelope unless it was taken before; then its acknowledgement is repeated."""
        kid = opened.sender.kid
        self.skews[kid] = opened.sent_ms - now_ms
        courier = self.couriers.get(kid)
        if courier is not None:
            courier.peer_is_up()
        window = self._windows.setdefault(kid, OrderedDict())
        self._windows.move_to_end(kid)
        if len(self._windows) > PEERS_REMEMBERED:
            stranger, _ = self._windows.popitem(last=False)
            self.skews.pop(stranger, None)
        known = window.get(opened.n)
        if known is None:
            known = asyncio.ensure_future(self._take(opened))
            known.add_done_callback(_seen)
            window[opened.n] = known
            if len(window) > ENVELOPES_REMEMBERED:
                window.popitem(last=False)
        return await asyncio.shield(known)

    async def _take(self, opened: Opened) -> bytes:
        def act(role: Role[Any], now: int) -> tuple[Refusal, ...]:
            refused = []
            try:  # the turn may have heard of a later key since the envelope came in
                role.lineages.check_speaker(opened.sender.kid, opened.lineage)
            except Disowned as error:
                raise Refused(error.kind, str(error)) from error
            for index, message in enumerate(opened.messages):
                refusal = (
                    message
                    if isinstance(message, Refusal)
                    else role.receive(opened.sender, message, now)
                )
                if refusal is not None:
                    refused.append(replace(refusal, index=index))
            role.meet(opened.sender.kid, opened.lineage, now)
            return tuple(refused)

        try:
            refused = await self.submit(act)
        except Refused as error:
            raise Rejected(503, error.code, error.reason) from error
        name = self.role.name_of(opened.sender.kid)
        for refusal in refused:
            if not refusal.retry:
                self._refused(name, refusal.code, refusal.reason)
        now_ms = self.clock.milliseconds()
        return acknowledge(self._key, opened.sender.kid, opened.n, now_ms, refused)

    async def submit(self, act: Callable[[RoleT, int], T]) -> T:
        """Run `act(role, now)` in the next turn; returns when its changes are durable.

        Raises what `act` raises, most often `Refused`.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(_Item(act, done))
        return await done

    async def changes(self, key: Key) -> AsyncIterator[Record | None]:
        """The record of one lease now, and again after each commit that changed it."""
        changed = asyncio.Event()
        self._watchers[key][changed] = None
        try:
            while True:
                changed.clear()
                await self.settled()
                yield self.role.leases.get(key)
                await changed.wait()
        finally:
            self._watchers[key].pop(changed, None)
            if not self._watchers[key]:
                del self._watchers[key]

    async def settled(self) -> None:
        """Returns when all that the role holds is committed: what is read right after is true.

        Between stepping and committing, a turn's changes could still be lost.
        """
        while not self._committed.is_set():
            await self._committed.wait()
        if not self.acts():
            raise Refused("unavailable", "another copy of this actor may be acting", retry=True)

    async def read_ledger(self, read: Callable[[Ledger], T]) -> T:
        """Run `read(ledger)` in the thread that commits, between two commits."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, read, self._ledger)

    # The loop ---------------------------------------------------------------------------------

    def _put(self, item: _Item) -> None:
        if self._stopped:
            self._refuse_all([item], "the actor is stopping")
            return
        self._queue.append(item)
        self._stirred.set()

    async def _run(self) -> None:
        flushed = asyncio.get_running_loop().time()
        while True:
            await self._wait()
            items = self._queue[:TURN_MAX]
            del self._queue[:TURN_MAX]
            loop_time = asyncio.get_running_loop().time()
            flush = loop_time - flushed > FLUSH_SECONDS
            if flush:
                flushed = loop_time
            self._committed.clear()
            try:
                await self._turn(items, flush=flush)
            except asyncio.CancelledError:
                self._queue[:0] = items  # `stop` tells those who wait for them
                raise
            except LedgerError:
                self._refuse_all(items, "the ledger can not be used")
                raise
            except Exception:
                # a fault in our own code: what waited is refused, memory is loaded again
                log.exception("%s: a turn broke", self.party.name)
                await self._crashed(items, CommitFailed("the turn broke"))
            finally:
                self._committed.set()

    async def _wait(self) -> None:
        """Until something is in the queue, a timer is due, or deliveries have to be stored."""
        if self._queue:
            await asyncio.sleep(0)  # let what is ready now join this turn
            return
        self._stirred.clear()
        pause: float | None = FLUSH_SECONDS if self.role.acknowledged else None
        if self._timers:
            ahead = max(self._timers[0][0] - self.clock.milliseconds() / 1000, 0.0)
            pause = min(ahead, pause) if pause is not None else ahead
        try:
            async with asyncio.timeout(pause):
                await self._stirred.wait()
        except TimeoutError:
            pass

    async def _turn(self, items: list[_Item], *, flush: bool) -> None:
        now = self.clock.tick()
        due = self._due(now)
        if not self._step_all(items, due, now):
            return
        if flush:
            self.role.flush()
            self._dismiss_idle()
        batch = self.role.take_batch()
        if batch.changed or batch.entries:
            try:
                await self._commit(batch)
            except CommitFailed as error:
                await self._crashed(items, error)
                return
        self._perform(batch)
        if not self.acts():
            self._refuse_all(items, "another copy of this actor may be acting")
        for item in items:
            _answer(item)

    def _step_all(self, items: list[_Item], due: list[Key], now: int) -> bool:
        """Step everything; False when memory had to be dropped, and the rest waits again."""
        for item in items:
            try:
                item.outcome = item.act(self.role, now)
            except (Refused, IllegalTransition) as error:
                item.error = error
            except Exception as error:
                log.exception("%s: a step broke; it alone is refused", self.party.name)
                self._drop_poison(items, item, error)
                return False
        for key in due:
            try:
                self.role.woken(key, now)
            except Exception:
                log.exception("%s: the timer of %s broke; it waits", self.party.name, key[1])
                self._postponed[key] = now + BROKEN_TIMER_TICKS
                self._begin_anew(items)
                return False
        self.role.settle(now)
        return True

    def _drop_poison(self, items: list[_Item], poison: _Item, error: Exception) -> None:
        """Refuse the one event that broke, forget this turn, and take up the others again."""
        items.remove(poison)
        poison.error = error
        _answer(poison)
        self._begin_anew(items)

    def _begin_anew(self, items: list[_Item]) -> None:
        for item in items:
            item.outcome, item.error = None, None
        self._queue[:0] = items
        self._load()

    async def _commit(self, batch: Batch) -> None:
        writes = batch.writes()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._ledger.commit, writes, batch.entries)

    async def _crashed(self, items: list[_Item], error: CommitFailed) -> None:
        log.error("%s: nothing of this turn is stored: %s", self.party.name, error)
        self.counters["commit_failed"] += 1
        asked = [item for item in items if item.done is not None]
        self._refuse_all(asked, "the ledger can not be written")
        self._load()
        # the ends of handlers, say: nobody would bring them again, so they wait for the next turn
        self._queue[:0] = [item for item in items if item.done is None]
        self._committed.set()
        await asyncio.sleep(RELOAD_SECONDS)  # a full disk is not freed in a millisecond

    def _refuse_all(self, items: list[_Item], reason: str) -> None:
        for item in items:
            item.error = Refused("unavailable", reason, retry=True)
            _answer(item)

    def _due(self, now: int) -> list[Key]:
        due = []
        while self._timers and self._timers[0][0] <= now:
            tick, kind, key = heapq.heappop(self._timers)
            if self._wakes.get((kind, key)) == tick:
                del self._wakes[kind, key]
                self._postponed.pop(key, None)
                due.append(key)
        return due

    # Performing -------------------------------------------------------------------------------

    def _perform_all(self) -> None:
        for kind, key, kept in self.role.kept():
            self._perform_for(kind, key, kept)

    def _perform(self, batch: Batch) -> None:
        if (restored.KIND, restored.KEY) in batch.changed and not self.role.held:
            self._perform_all()  # what was held is due
        for (kind, key), value in batch.changed.items():
            if kind in SPEAKING:
                self._perform_for(kind, key, value)
            for changed in self._watchers.get(key, ()):
                changed.set()

    def _perform_for(self, kind: str, key: Key, kept: Kept | None) -> None:
        """Make what is under way for one thing match its record."""
        if kept is None:
            for courier in self.couriers.values():
                courier.put(kind, key, ())
            return
        for kid, line in kept.lines.items():
            if line.unacked or kid in self.couriers:
                self._courier(kid).put(kind, key, line.unacked)
        if self.role.held:
            return  # nothing is run or woken before an operator confirms
        if kind == "lease":
            self.handling.update(key, kept.work)
        if kept.wake is None:
            return
        due = max(kept.wake, self._postponed.get(key, 0))
        if self._wakes.get((kind, key)) != due:
            self._wakes[kind, key] = due
            heapq.heappush(self._timers, (due, kind, key))
            self._stirred.set()

    def _courier(self, kid: str) -> Courier:
        courier = self.couriers.get(kid)
        if courier is None:
            party = self.role.parties[kid]
            courier = Courier(
                self._key,
                party,
                self._transport,
                self.clock,
                self.entropy,
                self._deliveries,
                self.acts,
                self._heard,
            )
            self.couriers[kid] = courier
        return courier

    def _dismiss_idle(self) -> None:
        """Couriers of guests and sites that we met through a ticket go when they are done."""
        for kid in [k for k, c in self.couriers.items() if c.idle and k not in self.role.pinned]:
            del self.couriers[kid]

    def _deliveries(self, deliveries: list[Delivery]) -> None:
        def act(role: Role[Any], now: int) -> None:
            for d in deliveries:
                if d.refusal is None:
                    role.delivered(d.kind, d.key, d.peer, d.message.n)
                else:
                    role.undeliverable(d.kind, d.key, d.peer, d.message, d.refusal, now)

        self._put(_Item(act))

    def _ended(self, key: Key, event: HandlerEnded) -> None:
        self._put(_Item(lambda role, _now: role.handler_ended(key, event)))

    def _tell(self, key: Key, work: Work, line: str) -> None:
        def act(role: Role[Any], now: int) -> None:
            record = role.leases.get(key)
            if record is not None:
                role.tell(record, now, "log", f"{work.handler} {work.unit}", line)

        self._put(_Item(act))

    def _refused(self, peer: str, kind: str, detail: str) -> None:
        """Count a refusal; log it once a peer and minute, so that nobody can fill the log."""
        self.counters[f"refused.{kind}"] += 1
        minute = self.clock.tick() // 60
        if self._warned.get((peer, kind)) != minute:
            if len(self._warned) > PEERS_REMEMBERED:
                self._warned.clear()
            self._warned[peer, kind] = minute
            log.warning("%s: refused from %s (%s): %s", self.party.name, peer, kind, detail)


def _seen(task: asyncio.Future[bytes]) -> None:
    """Whoever sent the envelope may be gone by now; that is no reason for a warning."""
    if not task.cancelled():
        task.exception()


def _answer(item: _Item) -> None:
    if item.done is None or item.done.done():
        return
    if item.error is not None:
        item.done.set_exception(item.error)
    else:
        item.done.set_result(item.outcome)
