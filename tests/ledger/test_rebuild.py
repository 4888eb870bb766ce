"""A ledger that was lost is made again from its mirror, unless that is not what was written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from homes import Home, MakeHome, await_mirror, entry, records
from shirako.api.tokens import Tokens
from shirako.assembly import Running, running
from shirako.cli import main
from shirako.demo.processes import make_keys
from shirako.descriptor import read_descriptor
from shirako.ledger import LedgerError, Write, decode_entries, verify_links
from shirako.ledger.mirror import entries
from shirako.ledger.mirror.directory import Directory
from shirako.ledger.mirror.entries import Change, Names, change
from shirako.ledger.opening import open_ledger
from shirako.testbed.ports import free_ports
from shirako.testbed.postgres import Postgres
from trio import DESCRIPTOR
from world import until

pytestmark = pytest.mark.real

LEASE = '<lease name="first" slice="blue" type="node" units="2" for="1h"/>'
MIRROR = '<mirror url="{url}" base="{base}" user="{user}" password-file="{password_file}"/>'

# What is not what was written ----------------------------------------------------------------

Tamper = Callable[[Directory, Names], None]


def dn(names: Names, key: str) -> str:
    return names.record(change("lease", key, b"").cn)


def forged(directory: Directory, names: Names) -> None:
    one = change("lease", "g/L1", b"forged")
    directory.put(names.record(one.cn), entries.RECORD, {entries.BODY: b"forged"})


def forged_with_its_sum(directory: Directory, names: Names) -> None:
    one = change("lease", "g/L1", b"forged")
    directory.put(names.record(one.cn), entries.RECORD, one.values)


def older(directory: Directory, names: Names) -> None:
    one = change("lease", "g/L1", b"old")
    directory.put(names.record(one.cn), entries.RECORD, one.values)


def missing(directory: Directory, names: Names) -> None:
    directory.remove(dn(names, "g/L2"))


def truncated(directory: Directory, names: Names) -> None:
    for one in list(directory.below(names.records, "cn")):
        directory.remove(names.record(one["cn"].decode()))


def added(directory: Directory, names: Names) -> None:
    one = change("lease", "g/L9", b"never was")
    directory.put(names.record(one.cn), entries.RECORD, one.values)


def under_another_name(directory: Directory, names: Names) -> None:
    one = change("lease", "g/L1", b"new")
    directory.put(names.record("f" * 32), entries.RECORD, one.values)


def exchanged(directory: Directory, names: Names) -> None:
    one, other = change("lease", "g/L1", b"new"), change("lease", "g/L2", b"new")
    directory.put(names.record(one.cn), entries.RECORD, other.values)


def head_of_another_time(directory: Directory, names: Names) -> None:
    text = (directory.read(names.head, entries.HEAD) or {})[entries.HEAD]
    said = json.loads(text) | {"records": 2, "commits": 99}
    said = json.dumps(said, separators=(",", ":")).encode()
    directory.put(names.head, entries.MIRROR, {entries.HEAD: said})


def head_of_another_form(directory: Directory, names: Names) -> None:
    directory.put(names.head, entries.MIRROR, {entries.HEAD: b'{"form":2,"commits":1}'})


def journal(directory: Directory, names: Names) -> None:
    values = {entries.WRITES: entries.encode_changes([Change("0" * 32, "lease", "g/L7", b"x")])}
    directory.put(names.part("0"), entries.JOURNAL, values)


def nonsense_in_the_journal(directory: Directory, names: Names) -> None:
    directory.put(names.part("0"), entries.JOURNAL, {entries.WRITES: b"\xc1"})


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (forged, "does not fit its checksum"),
        (forged_with_its_sum, "older or newer than the head"),
        (older, "older or newer than the head"),
        (missing, "3 records were written, 2 are there"),
        (truncated, "3 records were written, 1 are there"),
        (added, "3 records were written, 4 are there"),
        (under_another_name, "f{32},.* does not fit its checksum"),
        (exchanged, "does not fit its checksum"),
        (head_of_another_time, "2 records were written, 3 are there"),
        (head_of_another_form, "is no head of a mirror"),
        (journal, "3 records were written, 4 are there"),
        (nonsense_in_the_journal, "journal of the mirror can not be read"),
    ],
)
def test_a_mirror_that_was_changed_is_refused(
    make_home: MakeHome, tamper: Tamper, told: str
) -> None:
    home = make_home("memory+mirror")
    ledger = home.open()
    writes = [Write("lease", f"g/L{number}", b"old") for number in range(1, 4)]
    ledger.commit(writes, [entry("g/L1", "made")])
    ledger.commit([write._replace(body=b"new") for write in writes], [entry("g/L1", "changed")])
    await_mirror(ledger)
    ledger.commit([Write("lease", "g/L3", b"newest")], [])  # what is in the journal is known twice
    ledger.close()
    assert home.mirrored_records() == records(ledger)
    assert home.place is not None
    with Directory(home.place) as directory:
        tamper(directory, Names(home.place.base, home.actor))
    with pytest.raises(LedgerError, match=told):
        home.mirror()


def test_what_is_no_mirror_is_told(make_home: MakeHome) -> None:
    with pytest.raises(LedgerError, match="has no mirror of this actor"):
        make_home("memory+mirror").mirror()


# A whole actor -------------------------------------------------------------------------------


class Site:
    """A descriptor whose site has a mirror."""

    def __init__(self, folder: Path, home: Home, ledger: str = "") -> None:
        self.path = folder / "actors.xml"
        self.home = home
        assert home.place is not None
        ports = free_ports(("127.0.0.1",), seed=str(folder))
        text = DESCRIPTOR.format(
            site=next(ports),
            broker=next(ports),
            guest=next(ports),
            driver="",
            guest_driver=LEASE,
            units=4,
        ).replace('"site"', f'"{home.actor}"')
        place = home.place
        mirror = MIRROR.format(
            url=place.url, base=place.base, user=place.user, password_file=place.password_file
        )
        text = text.replace("<pool", f"{mirror}<pool", 1)
        if ledger:
            text = text.replace('state="state"', f'state="state" ledger="{ledger}"')
        self.path.write_text(text)
        make_keys(read_descriptor(self.path, keys=False))
        self.file = read_descriptor(self.path).state / f"{home.actor}.sqlite"

    def rebuild(self, *more: str) -> Result:
        words = ["rebuild", self.home.actor, "--actors", str(self.path), *more]
        return CliRunner().invoke(main, words)

    def lose(self) -> None:
        for one in self.file.parent.glob(f"{self.home.actor}.*"):
            one.unlink()


@pytest.fixture
def site(tmp_path: Path, make_home: MakeHome) -> Site:
    return Site(tmp_path, make_home("memory+mirror"))


def role_of(actors: list[Running], name: str) -> Any:
    return next(one.actor.role for one in actors if one.spec.name == name)


async def live(site: Site) -> dict[str, Any]:
    """Until a lease is active and the mirror has caught up; the site's status then."""
    descriptor = read_descriptor(site.path)
    token = Tokens(descriptor.state).create("ann", "site-admin")
    spec = descriptor.actors[0]
    async with running(descriptor) as actors, aiohttp.ClientSession() as session:
        guest = role_of(actors, "guest")
        await until(lambda: [one.state.value for one in guest.leases.values()] == ["Active"])
        while True:
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(f"{spec.url}/api/v1/status", headers=headers) as response:
                said: dict[str, Any] = await response.json()
            assert response.status == 200, said
            if said["mirror"]["commits_behind"] == 0:
                return said
            await asyncio.sleep(0.05)


async def test_an_actor_that_lost_its_ledger_is_rebuilt(site: Site) -> None:
    """DURABLE: with all that it knew, held, and with a log that cites the one that was lost."""
    said = await live(site)
    assert said["mirror"] == {"commits_behind": 0, "seconds_behind": 0.0, "trouble": ""}
    ledger = open_ledger(site.file, site.home.actor)
    before, last, commits = records(ledger), ledger.last_link(), ledger.total().commits
    ledger.close()
    site.lose()
    tried = site.rebuild("--from-mirror", "--dry-run", "--json")
    assert tried.exit_code == 0, tried.output
    told = json.loads(tried.stdout)
    assert (told["dry_run"], told["commits"], told["records"]) == (True, commits, len(before))
    assert not site.file.exists()
    done = site.rebuild("--from-mirror")
    assert done.exit_code == 0, done.output
    assert f"{len(before)} records as of commit {commits}" in done.output
    ledger = open_ledger(site.file, site.home.actor)
    after = records(ledger)
    assert {name: body for name, body in after.items() if name[0] != "restored"} == before
    assert verify_links(ledger.links()) == 1
    (first,) = [one for link in ledger.links() for one in decode_entries(link.body)]
    assert last is not None
    assert (first.lease, first.what) == ("ledger", "Rebuilt")
    assert last.hash in first.note
    assert first.tick == max(one.tick for one in decode_entries(last.body))
    ledger.close()
    async with running(read_descriptor(site.path)) as actors:
        role = role_of(actors, site.home.actor)
        assert role.held
        assert [one.state.value for one in role.leases.values()] == ["Active"]
    assert site.home.mirrored_records() == records(open_ledger(site.file, site.home.actor))


async def test_it_takes_no_ledgers_place(site: Site) -> None:
    await live(site)
    before = site.file.read_bytes()
    refused = site.rebuild("--from-mirror")
    assert refused.exit_code == 1
    assert "is not empty" in refused.output
    assert site.file.read_bytes() == before
    site.lose()
    assert site.home.place is not None
    with Directory(site.home.place) as directory:
        names = Names(site.home.place.base, site.home.actor)
        truncated(directory, names)
        directory.remove(names.part("0"))  # which may still know all of them
    refused = site.rebuild("--from-mirror")
    assert refused.exit_code == 1
    assert "is not what was written" in refused.output
    assert not site.file.exists()


async def test_a_ledger_on_a_server_is_rebuilt(
    tmp_path: Path, make_home: MakeHome, postgres: Postgres
) -> None:
    site = Site(tmp_path, make_home("memory+mirror"), postgres.socket_url.replace("&", "&amp;"))
    await live(site)
    refused = site.rebuild("--from-mirror")
    assert "is not empty" in refused.output
    ledger = open_ledger(postgres.socket_url, site.home.actor)
    before = records(ledger)
    ledger.close()
    schema = f"shirako_{site.home.actor.replace('-', '_')}"
    postgres.run(f"DROP SCHEMA {schema} CASCADE", "shirako")
    done = site.rebuild("--from-mirror")
    assert done.exit_code == 0, done.output
    ledger = open_ledger(postgres.socket_url, site.home.actor)
    after = records(ledger)
    assert {name: body for name, body in after.items() if name[0] != "restored"} == before
    ledger.close()


def test_wrong_usage_is_told(site: Site) -> None:
    assert site.rebuild().exit_code == 2
    assert "--from-mirror" in site.rebuild().output
    site.home.actor = "broker"
    assert "broker has no <mirror>" in site.rebuild("--from-mirror").output
    site.home.actor = "nobody"
    refused = site.rebuild("--from-mirror")
    assert refused.exit_code == 2
    assert "has no actor nobody" in refused.output
