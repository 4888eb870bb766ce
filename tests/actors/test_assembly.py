"""From a descriptor to running actors in one process; what it asks for is asked for once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shirako.assembly import Opening, Running, running
from shirako.demo.processes import make_keys
from shirako.descriptor import Descriptor, read_descriptor
from shirako.ledger import CommitFailed
from shirako.ledger.sqlite import SqliteLedger
from shirako.testbed.ports import free_ports
from trio import DESCRIPTOR
from world import until

LEASE = '<lease name="first" slice="blue" type="node" units="2" for="{length}" renew="{renew}"/>'


@pytest.fixture
def describe(tmp_path: Path) -> Callable[..., Descriptor]:
    def make(length: str = "1h", renew: str = "false") -> Descriptor:
        ports = free_ports(("127.0.0.1",), seed=str(tmp_path))
        text = DESCRIPTOR.format(
            site=next(ports),
            broker=next(ports),
            guest=next(ports),
            driver="",
            guest_driver=LEASE.format(length=length, renew=renew),
            units=4,
        )
        path = tmp_path / "actors.xml"
        path.write_text(text)
        make_keys(read_descriptor(path, keys=False))
        return read_descriptor(path)

    return make


def role(actors: list[Running], name: str) -> Any:
    return next(one.actor for one in actors if one.spec.name == name).role


def states(actors: list[Running], name: str) -> list[str]:
    return [str(lease.state.value) for lease in role(actors, name).leases.values()]


async def test_all_in_one_process(describe: Callable[..., Descriptor]) -> None:
    descriptor = describe()
    async with running(descriptor) as actors:
        await until(lambda: states(actors, "guest") == ["Active"], lambda: states(actors, "guest"))
        (lease,) = role(actors, "guest").leases.values()
        assert [unit.unit for unit in lease.held] == ["n1", "n2"]
        assert lease.resource == {"machine.memory": "2GB"}
        async with aiohttp.ClientSession() as session:
            for spec in descriptor.actors:
                async with session.get(f"{spec.url}/.well-known/shirako") as response:
                    about = await response.json()
                assert (about["name"], about["role"]) == (spec.name, spec.role)


async def test_a_restart_asks_for_nothing_twice(describe: Callable[..., Descriptor]) -> None:
    descriptor = describe()
    for _ in range(2):
        async with running(descriptor) as actors:
            await until(lambda: states(actors, "guest") == ["Active"])
            assert len(role(actors, "broker").delegations) == 1
            assert len(role(actors, "site").delegations) == 1
            assert sum(unit.owner is not None for unit in role(actors, "site").units.values()) == 2


async def test_a_lease_is_renewed_until_told_otherwise(
    describe: Callable[..., Descriptor],
) -> None:
    async with running(describe(length="10s", renew="true")) as actors:
        guest = role(actors, "guest")
        await until(lambda: states(actors, "guest") == ["Active"])
        (key,) = guest.leases
        first = guest.leases[key].term.end
        await until(lambda: guest.leases[key].term.end >= first + 20, seconds=30)
        (at_site,) = role(actors, "site").leases.values()
        assert at_site.state.value == "Active"
        assert at_site.term.end >= first + 20


async def test_a_broker_that_is_down_stops_no_start(
    describe: Callable[..., Descriptor], caplog: pytest.LogCaptureFixture
) -> None:
    descriptor = describe()
    async with running(descriptor, ("site", "guest")) as actors:
        await until(lambda: "broker can not be reached" in caplog.text)
        assert states(actors, "guest") == ["Ticketing"]


async def test_a_start_on_a_full_disk_waits_for_room(
    describe: Callable[..., Descriptor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actors are there, and what the descriptor wants of them comes when it can be stored."""
    refusals = iter(range(2))
    commit = SqliteLedger.commit

    def full(ledger: SqliteLedger, *what: Any) -> None:
        if next(refusals, None) is not None:
            raise CommitFailed("database or disk is full")
        commit(ledger, *what)

    monkeypatch.setattr(SqliteLedger, "commit", full)
    monkeypatch.setattr("shirako.assembly.INSIST_SECONDS", 0.1)
    monkeypatch.setattr("shirako.actors.actor.RELOAD_SECONDS", 0.05)
    async with running(describe()) as actors:
        await until(lambda: states(actors, "guest") == ["Active"], lambda: states(actors, "guest"))
    assert next(refusals, None) is None


async def test_a_start_that_waits_for_room_can_be_stopped(
    describe: Callable[..., Descriptor], monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening()

    def full(_ledger: SqliteLedger, *_what: Any) -> None:
        opening.stopping.set()  # as SIGTERM does, which comes while it waits
        raise CommitFailed("database or disk is full")

    monkeypatch.setattr(SqliteLedger, "commit", full)
    monkeypatch.setattr("shirako.assembly.INSIST_SECONDS", 0.1)
    async with asyncio.timeout(20), running(describe(), opening=opening) as actors:
        assert states(actors, "guest") == []
