"""Drivers of simulated nodes: what `shirako.handlers` promises, in several awaited steps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from shirako import handlers
from shirako.handlers import (
    Difference,
    HandlerFailed,
    Log,
    Options,
    Unavailable,
    UnitJob,
)
from shirako.simulation.nodes import Directory, Node, Owner, Step, Thing

CONNECT_SECONDS = 0.3
UNREACHABLE_SECONDS = 6.0
"""How long it takes to find out that a node does not answer."""
Fault = Literal["left over", "missing", "changed"]
_SET_UP, _TEAR_DOWN, _PROBE = 1, 2, 0


def owner_of(job: UnitJob, names: Mapping[str, str]) -> Owner:
    """In whose name a job acts: `guest/reservation` and its epoch."""
    guest = job.properties.get("guest", "")
    lease = f"{names.get(guest, guest[:8])}/{job.lease}" if job.lease else ""
    return Owner(lease, job.epoch)


async def connect(node: Node) -> None:
    await asyncio.sleep(CONNECT_SECONDS)
    if not node.reachable:
        await asyncio.sleep(UNREACHABLE_SECONDS)
        raise HandlerFailed(f"{node.name} does not answer")


class NodeDriver:
    """Authority side: an account with the guest's keys on each unit."""

    Options: ClassVar[type[handlers.Options]] = Options

    def __init__(self, nodes: Mapping[str, Node], names: Mapping[str, str]) -> None:
        self._nodes = nodes
        self._names = names

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        node, owner = self._nodes[job.unit], owner_of(job, self._names)
        await connect(node)
        account = Thing("account", owner.lease)
        trial = Thing("key", f"trial {owner.epoch}")
        await node.start(
            "set_up",
            owner,
            _SET_UP,
            (
                lambda: _claim(node, owner),
                lambda: node.put(account, owner),
                lambda: node.put(Thing("file", f"home of {owner.lease}"), owner),
                lambda: node.put(trial, owner),
            ),
        )
        await connect(node)
        if trial not in node.things:
            raise HandlerFailed(f"{node.name} does not let the one-time key in")
        wanted: list[Step] = [
            lambda key=key: node.put(Thing("key", key), owner)  # type: ignore[misc]
            for key in job.keys
        ]
        await node.start("hand_over", owner, _SET_UP, (lambda: node.take(trial), *wanted))
        return {"host": node.name, "user": owner.lease}

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        node, owner = self._nodes[job.unit], owner_of(job, self._names)
        await connect(node)
        await node.start(
            "tear_down",
            owner,
            _TEAR_DOWN,
            (
                node.jam,
                lambda: _clear(node, "key"),
                lambda: _clear(node, "process"),
                lambda: _clear(node, "file"),
                lambda: _clear(node, "account"),
                lambda: _verify_clean(node),
            ),
        )
        return ("account_gone", "keys_gone", "processes_gone", "files_gone")

    async def probe(self, job: UnitJob, log: Log) -> None:
        node, owner = self._nodes[job.unit], owner_of(job, self._names)
        await connect(node)

        def look() -> None:
            if not job.lease:
                _verify_clean(node)
            elif Thing("account", owner.lease) not in node.things:
                raise HandlerFailed(f"the account of {owner.lease} is missing")

        await node.start("probe", owner, _PROBE, (look,))

    async def survey(self, jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        found: list[Difference] = []
        for job in jobs:
            node, owner = self._nodes[job.unit], owner_of(job, self._names)
            try:
                await connect(node)
            except HandlerFailed as failure:
                found.append(_difference(job, str(failure), "changed"))
                continue
            if node.epoch > owner.epoch:  # the site's books are older than what was done here
                found.append(_difference(job, f"epoch {node.epoch}", "changed"))
            for thing, whose in node.things.items():
                if whose.lease != owner.lease:
                    found.append(_difference(job, f"{thing.kind} {thing.name}", "left over"))
            if owner.lease:
                found += [
                    _difference(job, f"{thing.kind} {thing.name}", "missing")
                    for thing in _wanted(job, owner)
                    if thing not in node.things
                ]
        return found

    async def mend(self, differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        if job is None:
            return
        node, owner = self._nodes[job.unit], owner_of(job, self._names)
        await connect(node)
        if not owner.lease:
            await self.teardown(job, log)
            return

        def put_right() -> None:
            for thing in _wanted(job, owner):
                node.put(thing, owner)

        await node.start("mend", owner, _SET_UP, (put_right,))

    async def close(self) -> None:
        """Nothing to give back."""


def _wanted(job: UnitJob, owner: Owner) -> tuple[Thing, ...]:
    return (Thing("account", owner.lease), *(Thing("key", key) for key in job.keys))


def _difference(job: UnitJob, what: str, fault: Fault) -> Difference:
    return Difference(unit=job.unit, where="node", what=what, fault=fault)


def _claim(node: Node, owner: Owner) -> None:
    """A node that holds something of another lease is not fit."""
    for thing, other in node.things.items():
        if other.lease != owner.lease:
            raise HandlerFailed(f"{node.name} still holds {thing.kind} {thing.name}")


def _clear(node: Node, kind: str) -> None:
    for thing in [thing for thing in node.things if thing.kind == kind]:
        node.take(thing)


def _verify_clean(node: Node) -> None:
    for thing, owner in node.things.items():
        raise HandlerFailed(f"left of {owner.lease}: {thing.kind} {thing.name}")


class DirectoryDriver:
    """Authority side: says in the directory which unit is whose."""

    Options: ClassVar[type[handlers.Options]] = Options

    def __init__(self, directory: Directory, names: Mapping[str, str]) -> None:
        self._directory = directory
        self._names = names

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        await self._turn()
        self._directory.put(job.unit, owner_of(job, self._names))
        return {"directory": job.unit}

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        await self._turn()
        self._directory.take(job.unit, owner_of(job, self._names).lease)
        return ("directory_gone",)

    async def probe(self, job: UnitJob, log: Log) -> None:
        await self._turn()

    async def survey(self, jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        await self._turn()
        found: list[Difference] = []
        for job in jobs:
            owner = owner_of(job, self._names)
            written = self._directory.about(job.unit)
            found += [self._difference(job, "left over") for one in written if one != owner.lease]
            if owner.lease and owner.lease not in written:
                found.append(self._difference(job, "missing"))
        return found

    async def mend(self, differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        await self._turn()
        if job is None:
            return
        owner = owner_of(job, self._names)
        for lease in self._directory.about(job.unit):
            if lease != owner.lease:
                self._directory.take(job.unit, lease)
        if owner.lease:
            self._directory.put(job.unit, owner)

    async def close(self) -> None:
        """Nothing to give back."""

    async def _turn(self) -> None:
        await asyncio.sleep(CONNECT_SECONDS)
        if not self._directory.answers:
            raise Unavailable("the directory does not answer")

    @staticmethod
    def _difference(job: UnitJob, fault: Fault) -> Difference:
        return Difference(unit=job.unit, where="directory", what=f"entry {job.unit}", fault=fault)


class GuestSideDriver:
    """Guest side: logs in to the unit, and leaves a process and a file there."""

    Options: ClassVar[type[handlers.Options]] = Options

    def __init__(self, nodes: Mapping[str, Node], guest: str) -> None:
        self._nodes = nodes
        self._guest = guest

    async def join(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        node = self._nodes[job.unit]
        await connect(node)
        log_in(node, f"{self._guest}/{job.lease}", job.keys)
        log(f"{node.name} has joined")
        return {"joined": "true"}

    async def leave(self, job: UnitJob, log: Log) -> None:
        node = self._nodes[job.unit]
        await connect(node)
        log_in(node, f"{self._guest}/{job.lease}", job.keys)

    async def close(self) -> None:
        """Nothing to give back."""


def log_in(node: Node, who: str, keys: tuple[str, ...]) -> Owner:
    """Enter with one of these keys, and do what guests do; raises `HandlerFailed` when kept out."""
    for key in keys:
        owner = node.things.get(Thing("key", key))
        if owner is not None:
            break
    else:
        raise HandlerFailed(f"{node.name} does not let {who} in")
    if node.things.get(Thing("account", owner.lease)) is None:
        raise HandlerFailed(f"{node.name} has no account for {who}")
    node.put(Thing("process", f"shell of {who}"), owner)
    node.put(Thing("file", f"notes of {who}"), owner)
    return owner
