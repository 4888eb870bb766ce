"""Ledgers that are lost and come back from a backup, and the operators who confirm that.

A backup is taken at some instant while the actor runs. Later its ledger is lost: the actor ends,
its ledger is what the backup has, and it starts held (`shirako.actors.restored`). Its operator
looks, waits until its peers have heard of it or patience is over, and confirms: again and again,
since the actor may crash over it. What the backup does not know of is lost; who looks after the
site's nodes leaves those alone on which a guest may still work that the site has forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from shirako.actors import restored
from shirako.actors.actor import Actor
from shirako.actors.recovering import Plan, recover
from shirako.actors.role import Refused
from shirako.core.account import Posting
from shirako.ledger import Write, decode_entries
from shirako.ledger.memory import MemoryLedger
from shirako.simulation.chance import Stream
from shirako.simulation.facts import Restoration
from shirako.simulation.records import BrokerRecord, DelegationRecord, Key, opened
from shirako.simulation.seats import SKEW, Down, Seat

if TYPE_CHECKING:
    from shirako.simulation.world import World

ROLES = {"site": "authority", "broker": "broker", "guest": "service-manager"}
BACKUP_AGE_SECONDS = 240.0
PATIENCE_SECONDS = 150.0
LOOK_SECONDS = 12.0
HELD = "look at an actor that is held"
CONFIRMED = "restore confirmed"
CURRENT = "restore confirmed: the backup was current"


class Restorer:
    """Takes backups, loses ledgers, and confirms what was restored."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.operators: list[asyncio.Task[None]] = []
        self.lost: set[tuple[str, Key]] = set()
        """(actor, lease) of which the actor has forgotten something."""
        self.restored: set[str] = set()
        """Actors whose ledger was lost."""
        self.split: set[str] = set()
        """Accounts that go on from before what was written: their site was restored since."""
        self.unfollowed: set[str] = set()
        """Accounts of which a broker has forgotten what does not come again."""
        self._in_use: dict[str, int] = {}
        """Unit -> the tick until which a guest may work there whom the site has forgotten."""

    def lose_later(self, seat: Seat, how: Stream, seconds: float) -> None:
        """Some time within so many seconds; now and then again, perhaps from the same backup."""
        at = how.uniform(10.0, seconds)
        age = how.choice((0.01, 0.1, 1.0)) * how.random() * BACKUP_AGE_SECONDS
        times = [at, at + how.uniform(1.0, seconds)][: how.choice((1, 1, 2))]
        self._world.loop.after(max(at - age, 5.0), self._back_up, seat, how, times)
        if how.random() < 0.15:
            at = how.uniform(10.0, seconds)
            self._world.loop.after(max(at - age, 5.0), self._back_up, seat, how, [at])

    def may_use(self, unit: str, now: int) -> bool:
        """Whether nobody works there any more whom the site has forgotten."""
        return now > self._in_use.get(unit, 0)

    def has_forgotten(self, seats: Iterable[Seat], key: Key) -> bool:
        """Whether one of these has lost something of the lease."""
        return any((seat.name, key) in self.lost for seat in seats)

    def all_free(self, units: list[str], now: int) -> bool:
        return all(self.may_use(unit, now) for unit in units)

    # Losing -----------------------------------------------------------------------------------

    def _back_up(self, seat: Seat, how: Stream, lost_at: list[float]) -> None:
        """A copy of what is committed by now, as `shirako backup` makes it."""
        source = seat.disk.ledger
        mark_of = (restored.KIND, "/".join(restored.KEY))
        earlier = next((body for *name, body in source.load() if tuple(name) == mark_of), b"")
        mark = restored.marked(
            restored.decode(earlier) if earlier else None,
            actor=seat.name,
            role=ROLES[seat.part],
            kid=seat.party.kid,
            taken=seat.tick(),
        )
        copy = _copied(source, [restored.write(mark)])
        self._world.facts.note(seat.name, "is backed up")
        loop = self._world.loop
        for at in lost_at:
            loop.after(max(at - loop.now, 0.0), self._lose, seat, how, copy, loop.now)

    def _lose(self, seat: Seat, how: Stream, backup: MemoryLedger, taken: float) -> None:
        if seat.gone or self._world.injector.over:
            return
        seat.vanish_for_now()
        lost_before = seat.name in self.restored
        self.restored.add(seat.name)
        seat.disk.ledger = _copied(backup, ())
        facts = self._world.facts
        age = self._world.loop.now - taken
        facts.note(seat.name, f"loses its ledger, and gets its backup of {age:.1f} s ago")
        restoration = facts.restored(seat.name, seat.part, backup.load())
        self._note_lost(seat, restoration)
        seat.come_back(how.uniform(0.5, 30.0))
        went_on = lost_before or _went_on(restoration)
        current = seat.part == "broker" and not went_on and how.random() < 0.7
        patience = how.random() * PATIENCE_SECONDS
        operator = self._operate(seat, how, self._world.loop.now + patience, current=current)
        self.operators.append(self._world.loop.create_task(operator))

    def _note_lost(self, seat: Seat, restoration: Restoration) -> None:
        for (kind, key), record in restoration.before.items():
            if kind != "lease" or restoration.after.get((kind, key)) == record:
                continue
            self.lost.add((seat.name, key))
        lost = restoration.before.keys() - restoration.after.keys()
        accounts = {key[0] for kind, key in lost if kind in ("posting", "volume")}
        (self.split if seat.part == "site" else self.unfollowed).update(accounts)
        before, after = opened(restoration.before), opened(restoration.after)
        for where, end in before.items():
            if where not in after:
                unit = where[0]
                self._in_use[unit] = max(self._in_use.get(unit, 0), end + 2 * SKEW)

    # Confirming -------------------------------------------------------------------------------

    async def _operate(
        self, seat: Seat, how: Stream, patient_until: float, *, current: bool
    ) -> None:
        """Look again and again, and confirm once peers were heard, or it takes too long."""
        world = self._world
        while not seat.gone:
            await asyncio.sleep(LOOK_SECONDS * (0.3 + how.random()))
            tired = world.loop.now >= patient_until or world.injector.over
            plan = await self._recover(seat, dry_run=True, current=current)
            if plan is None:
                continue
            if not plan.held:
                return
            world.facts.seen[HELD] += 1
            if plan.unheard and not tired:
                continue
            plan = await self._recover(seat, dry_run=False, current=current)
            if plan is not None and plan.held:
                world.facts.seen[CURRENT if current else CONFIRMED] += 1
                suspects = ", ".join(one.unit for one in plan.suspects)
                world.facts.note(seat.name, f"is confirmed; suspects: {suspects or 'none'}")

    async def _recover(self, seat: Seat, *, dry_run: bool, current: bool) -> Plan | None:
        """None: nobody answers."""

        async def doing(actor: Actor[Any]) -> Plan:
            return await recover(actor, dry_run=dry_run, backup_was_current=current, by="operator")

        try:
            return await seat.ask(doing)
        except (Down, Refused):
            return None


def _copied(source: MemoryLedger, writes: Sequence[Write]) -> MemoryLedger:
    """All of a ledger, and these writes, in another one."""
    copy = MemoryLedger()
    for link in source.links():
        copy.commit((), decode_entries(link.body))
    copy.commit([*(Write(*record) for record in source.load()), *writes], ())
    return copy


def _went_on(restoration: Restoration) -> bool:
    """Whether a broker has sold anything since its backup, or was given anything back."""
    for where, record in restoration.before.items():
        known = restoration.after.get(where)
        if isinstance(record, BrokerRecord):
            if not isinstance(known, BrokerRecord):
                return True
            if (known.state, known.grants) != (record.state, record.grants):
                return True
        elif isinstance(record, DelegationRecord | Posting) and known is None:
            return True
    return False
