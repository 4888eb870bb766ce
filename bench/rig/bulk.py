"""Many lease lives at once, by the three real roles in this process, each turn a commit.

Every claim and lease is signed and verified; only envelopes and HTTP are left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.rig.folder import ACTORS, Folder
from shirako.actors.authority import Authority
from shirako.actors.role import Role
from shirako.actors.service_manager import ServiceManager
from shirako.clock import RealClock, RealEntropy
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import HandlerEnded, Key
from shirako.core.terms import Term
from shirako.ledger.opening import open_ledger
from shirako.trust import PublicKey

TURN = 64
"""Leases a commit, as many as messages in an envelope."""
TERM_TICKS = 7 * 24 * 3600
SHARE = "share"


class Bulk:
    """Drives the three roles through the lives of many leases at a time, each turn a commit."""

    def __init__(self, folder: Folder) -> None:
        self.roles = folder.roles()
        self.now = RealClock().tick()
        self._ledgers = {name: open_ledger(folder.where(name), name) for name in ACTORS}
        self._names = {role.me.party.kid: name for name, role in self.roles.items()}
        self._keys = {name: PublicKey(role.me.party.x) for name, role in self.roles.items()}
        self._entropy = RealEntropy()
        self._delegate()

    def close(self) -> None:
        for name in ACTORS:
            self._turn(name, lambda _: None)  # deliveries that no later turn has stored
        for ledger in self._ledgers.values():
            ledger.close()

    def _delegate(self) -> None:
        site = self.roles["site"]
        assert isinstance(site, Authority)
        wanted = Delegation(
            id=SHARE,
            holder=self._party("broker"),
            type="node",
            units=len(site.units),
            term=Term(self.now, self.now + 365 * 24 * 3600),
            chain=(),
            name=SHARE,
        )
        made = self._turn("site", lambda _: site.delegate(wanted))
        self._settle([made.key])

    def begin(self, count: int) -> list[Key]:
        """So many leases of one unit, up to Active."""
        guest = self.roles["guest"]
        assert isinstance(guest, ServiceManager)
        leases = []
        for _ in range(count):
            lease = GuestLease(
                id=self._entropy.fresh_id(),
                guest=self._party("guest"),
                slice="bench",
                type="node",
                units=1,
                least_units=1,
                state=GuestState.NASCENT,
                broker=self._party("broker"),
                term=Term(self.now, self.now + TERM_TICKS),
            )
            leases.append(lease)
        self._turn("guest", lambda _: [guest.request(one, self.now, "bench") for one in leases])
        keys = [lease.key for lease in leases]
        self._settle(keys)
        self._expect(keys, GuestState.ACTIVE)
        return keys

    def end(self, keys: Sequence[Key]) -> None:
        """Close leases, receipts and all."""
        guest = self.roles["guest"]
        assert isinstance(guest, ServiceManager)
        self._turn("guest", lambda _: [guest.close(key, "done", self.now, "bench") for key in keys])
        self._settle(keys)
        self._expect(keys, GuestState.CLOSED)

    def forget(self) -> None:
        """Let so much time pass that no tombstone is left."""
        for name, role in self.roles.items():
            while role.leases:
                self._turn(name, _wake_next)

    def _expect(self, keys: Sequence[Key], state: GuestState) -> None:
        for key in keys:
            lease = self.roles["guest"].leases[key]
            if lease.state is not state:
                raise RuntimeError(f"lease {key[1]} is {lease.state}, {lease.reason}")

    def _party(self, name: str) -> Party:
        return self.roles[name].me.party

    def _settle(self, keys: Sequence[Key]) -> None:
        """Deliver messages and end handlers until these leases have nothing more to say or do."""
        while any([self._deliver(name, keys) for name in ACTORS] + [self._handle(keys)]):
            pass

    def _deliver(self, sender: str, keys: Sequence[Key]) -> bool:
        said: dict[str, list[tuple[str, Key, Any]]] = {}
        for kind, key, kept in self._kept(sender, keys):
            for kid, line in kept.lines.items():
                for message in line.unacked:
                    said.setdefault(self._names[kid], []).append((kind, key, message))
        for receiver, messages in said.items():
            self._turn(receiver, self._receiving(sender, [m for _, _, m in messages]))
            kid = self._party(receiver).kid
            for kind, key, message in messages:
                self.roles[sender].delivered(kind, key, kid, message.n)
        return bool(said)

    def _receiving(self, sender: str, messages: Sequence[Any]) -> Callable[[Role[Any]], None]:
        def receive(role: Role[Any]) -> None:
            for message in messages:
                refusal = role.receive(self._keys[sender], message, self.now)
                if refusal is not None:
                    raise RuntimeError(f"{role.title} refused {message}: {refusal}")

        return receive

    def _kept(self, name: str, keys: Sequence[Key]) -> Iterator[tuple[str, Key, Any]]:
        role = self.roles[name]
        for key in keys:
            for kind in ("lease", "delegation"):
                kept = role.find(kind, key)
                if kept is not None:
                    yield kind, key, kept

    def _handle(self, keys: Sequence[Key]) -> bool:
        site = self.roles["site"]
        ended = [
            (key, HandlerEnded(now=self.now, work=work, ok=True))
            for key in keys
            if key in site.leases
            for work in site.leases[key].work
        ]
        if ended:
            self._turn("site", lambda role: _end_handlers(role, ended))
        return bool(ended)

    def _turn(self, name: str, act: Callable[[Role[Any]], Any]) -> Any:
        role = self.roles[name]
        result = act(role)
        role.settle(self.now)
        role.flush()
        batch = role.take_batch()
        self._ledgers[name].commit(batch.writes(), batch.entries)
        return result


def _wake_next(role: Role[Any]) -> None:
    """Time goes on to the next deadline of a lease."""
    at = min(lease.wake for lease in role.leases.values())
    for key in list(role.leases):
        role.woken(key, at)


def _end_handlers(role: Role[Any], ended: Sequence[tuple[Key, HandlerEnded]]) -> None:
    for key, event in ended:
        role.handler_ended(key, event)


def fill(folder: Folder, leases: int) -> float:
    """Fill the ledgers of a folder with so many live leases; returns the seconds it took."""
    begun = time.perf_counter()
    bulk = Bulk(folder)
    for start in range(0, leases, TURN):
        bulk.begin(min(TURN, leases - start))
        if start % (TURN * 200) == 0 and start:
            print(f"{start} of {leases} leases are there", file=sys.stderr)
    bulk.close()
    return time.perf_counter() - begun
