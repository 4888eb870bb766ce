"""What driver `directory` finds on a real slapd that is not as the ledger says, and mends."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.utils.dn import escape_rdn

from shirako.handlers import Difference, Unavailable, UnitJob, Unsuitable
from shirako.testbed import Site, Testbed
from shirako_drivers.accounts import AccountOptions, account_of
from shirako_drivers.directory import DirectoryDriver
from shirako_drivers.entries import Tree, slice_dn

Jobs = Callable[..., UnitJob]
Found = set[tuple[str, str, str]]


class Ldap:
    """The system's own LDAP tools, as the directory's administrator."""

    def __init__(self, site: Site) -> None:
        directory = site.directory
        self.base = directory.base_dn
        self._bind = ["-x", "-H", directory.url, "-D", directory.bind_dn]
        self._bind += ["-y", str(directory.password_file)]

    def change(self, ldif: str) -> None:
        """Apply LDIF; BASE stands for the base DN."""
        text = ldif.replace("BASE", self.base)
        self._run(["ldapmodify", *self._bind], text)

    def delete(self, *names: str) -> None:
        """Remove these, and all below them, where they are."""
        for name in names:
            command = ["ldapdelete", "-r", *self._bind, name.replace("BASE", self.base)]
            self._run(command, "")

    def entries(self) -> dict[str, list[str]]:
        """Lines of all entries, by DN."""
        command = ["ldapsearch", "-LLL", "-o", "ldif-wrap=no", *self._bind, "-b", self.base]
        blocks = self._run(command, "").strip().split("\n\n")
        return {block.splitlines()[0][4:]: sorted(block.splitlines()) for block in blocks}

    def _run(self, command: list[str], text: str) -> str:
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def ldap(site: Site) -> Iterator[Ldap]:
    """Empty but for the base before and after each test."""
    ldap = Ldap(site)
    assert list(ldap.entries()) == [ldap.base]
    yield ldap
    tops = [dn for dn in ldap.entries() if dn.count(",") == ldap.base.count(",") + 1]
    ldap.delete(*tops)


@pytest.fixture
def jobs(site: Site, make_job: Jobs) -> list[UnitJob]:
    """Two units of green, one of blue, and an idle one; addresses by unit."""
    template = make_job(site.nodes[0])
    held = {"n1": "green", "n2": "green", "n3": "blue"}
    made = [
        replace(
            template,
            unit=unit,
            slice=held.get(unit, ""),
            lease=f"lease-{held[unit]}" if unit in held else "",
            node={**template.node, "host": f"192.0.2.{number}"},
        )
        for number, unit in enumerate(("n1", "n2", "n3", "n4"), 1)
    ]
    return [replace(made[0], outputs={"host.name": "web-n1"}), *made[1:]]


@pytest.fixture
async def driver(
    directory_driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> DirectoryDriver:
    """The directory as it should be."""
    for job in jobs:
        if job.lease:
            await directory_driver.setup(job, print)
    return directory_driver


def seen(differences: list[Difference] | tuple[Difference, ...], base: str) -> Found:
    assert all(one.where == "directory" for one in differences)
    return {(one.unit, one.fault, one.what.replace(base, "BASE")) for one in differences}


async def mended(driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap) -> Found:
    """What is left after each unit's differences, then those of no unit, were mended."""
    told = list(await driver.survey(jobs, print))
    for job in jobs:
        mine = [one for one in told if one.unit == job.unit]
        if mine:
            await driver.mend(mine, job, print)
    await driver.mend([one for one in told if not one.unit], None, print)
    return seen(list(await driver.survey(jobs, print)), ldap.base)


GREEN = "ou=green,BASE"
UID = account_of(
    UnitJob(
        unit="",
        epoch=1,
        lease="",
        slice="green",
        type="",
        end=0,
        node={},
        properties={},
        keys=(),
        outputs={},
    ),
    AccountOptions(),
).uid

DELETED: dict[str, Found] = {
    f"cn=n2,ou=hosts,{GREEN}": {("n2", "missing", f"cn=n2,ou=hosts,{GREEN}")},
    f"ou=hosts,{GREEN}": {
        ("n1", "missing", f"cn=n1,ou=hosts,{GREEN}"),
        ("n2", "missing", f"cn=n2,ou=hosts,{GREEN}"),
    },
    GREEN: {
        ("n1", "missing", GREEN),
        ("n1", "missing", f"cn=n1,ou=hosts,{GREEN}"),
        ("n2", "missing", f"cn=n2,ou=hosts,{GREEN}"),
    },
    f"uid=s-green,ou=people,{GREEN}": {("n1", "missing", f"uid=s-green,ou=people,{GREEN}")},
    f"cn=s-green,ou=groups,{GREEN}": {("n1", "missing", f"cn=s-green,ou=groups,{GREEN}")},
    f"cn=s-green,ou=netgroups,{GREEN}": {("n1", "missing", f"cn=s-green,ou=netgroups,{GREEN}")},
    f"ou=people,{GREEN}": {("n1", "missing", f"ou=people,{GREEN}")},
}

CHANGED: tuple[tuple[str, str, str, str, str], ...] = (
    (f"cn=n2,ou=hosts,{GREEN}", "ipHostNumber", "192.0.2.99", "n2", "192.0.2.2"),
    (f"cn=n2,ou=hosts,{GREEN}", "description", "lease other", "n2", "lease lease-green"),
    (f"cn=n2,ou=hosts,{GREEN}", "description", "somebody's", "n2", "lease lease-green"),
    (f"uid=s-green,ou=people,{GREEN}", "uidNumber", "7", "n1", str(UID)),
    (f"uid=s-green,ou=people,{GREEN}", "homeDirectory", "/", "n1", "/home/s-green"),
    (f"cn=s-green,ou=groups,{GREEN}", "gidNumber", "0", "n1", str(UID)),
    (
        *(f"cn=s-green,ou=netgroups,{GREEN}", "nisNetgroupTriple", "(n1,root,)", "n1"),
        "(n1,s-green,), (n2,s-green,), (web-n1,s-green,)",
    ),
)


@pytest.mark.real
@pytest.mark.root
async def test_a_healthy_directory_shows_nothing_and_a_survey_changes_nothing(
    driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> None:
    before = ldap.entries()
    assert await driver.survey(jobs, print) == []
    assert await driver.survey([], print) == []
    assert await mended(driver, jobs, ldap) == set()
    assert ldap.entries() == before


@pytest.mark.real
@pytest.mark.root
async def test_what_was_deleted_or_changed_by_hand_is_found_and_put_right(
    driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> None:
    healthy = ldap.entries()
    for dn, expected in DELETED.items():
        ldap.delete(dn)
        assert seen(list(await driver.survey(jobs, print)), ldap.base) == expected
        assert await mended(driver, jobs, ldap) == set(), dn
        assert ldap.entries() == healthy, dn
    for dn, attribute, value, unit, proper in CHANGED:
        ldap.change(f"dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n")
        what = f"{dn}: {attribute} is {value}, not {proper}"
        assert seen(list(await driver.survey(jobs, print)), ldap.base) == {(unit, "changed", what)}
        assert await mended(driver, jobs, ldap) == set(), what
        assert ldap.entries() == healthy, what


LEFT_OVER = """\
dn: cn=n4,ou=hosts,ou=green,BASE
changetype: add
objectClass: device
objectClass: ipHost
ipHostNumber: 192.0.2.4
description: lease gone

dn: cn=n3,ou=hosts,ou=green,BASE
changetype: add
objectClass: device
objectClass: ipHost
ipHostNumber: 192.0.2.3
description: lease gone
"""

FOREIGN = """\
dn: ou=people,BASE
changetype: add
objectClass: organizationalUnit

dn: uid=s-ann,ou=people,BASE
changetype: add
objectClass: account
objectClass: posixAccount
cn: Ann
uidNumber: 20001
gidNumber: 20001
homeDirectory: /home/ada

dn: ou=physics,BASE
changetype: add
objectClass: organizationalUnit

dn: ou=people,ou=physics,BASE
changetype: add
objectClass: organizationalUnit

dn: ou=groups,ou=physics,BASE
changetype: add
objectClass: organizationalUnit

dn: ou=machines,BASE
changetype: add
objectClass: organizationalUnit

dn: cn=n4,ou=machines,BASE
changetype: add
objectClass: device
objectClass: ipHost
ipHostNumber: 192.0.2.4
description: lease gone

dn: ou=other,BASE
changetype: add
objectClass: organizationalUnit
description: Shirako slice

dn: ou=hosts,ou=other,BASE
changetype: add
objectClass: organizationalUnit

dn: cn=n4,ou=hosts,ou=other,BASE
changetype: add
objectClass: device
objectClass: ipHost
ipHostNumber: 198.51.100.4
description: lease of another site

dn: cn=m1,ou=hosts,ou=other,BASE
changetype: add
objectClass: device
objectClass: ipHost
ipHostNumber: 192.0.2.50
description: lease of another pool

dn: ou=kept,BASE
changetype: add
objectClass: organizationalUnit
description: Shirako slice

dn: ou=groups,ou=kept,BASE
changetype: add
objectClass: organizationalUnit

dn: cn=team,ou=groups,ou=kept,BASE
changetype: add
objectClass: posixGroup
gidNumber: 30000

dn: cn=a+description=b,BASE
changetype: add
objectClass: device
description: b

dn: ou=A\\22\\23\\3B\\2C\\ ,BASE
changetype: add
objectClass: organizationalUnit
"""


@pytest.mark.real
@pytest.mark.root
async def test_what_is_left_over_goes_and_what_is_anybody_elses_stays(
    driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> None:
    healthy = ldap.entries()
    ldap.change(FOREIGN)
    foreign = ldap.entries()
    assert await driver.survey(jobs, print) == []
    ldap.change(LEFT_OVER)
    old = replace(jobs[3], slice="red", lease="lease-red")
    await driver.setup(old, print)
    await driver.setup(replace(old, slice="frame"), print)
    await driver.setup(replace(old, slice="half"), print)
    ldap.delete("cn=n4,ou=hosts,ou=frame,BASE", "ou=hosts,ou=half,BASE")
    assert seen(list(await driver.survey(jobs, print)), ldap.base) == {
        ("n4", "left over", f"cn=n4,ou=hosts,{GREEN}"),
        ("n3", "left over", f"cn=n3,ou=hosts,{GREEN}"),
        ("n4", "left over", "cn=n4,ou=hosts,ou=red,BASE"),
        ("", "left over", "ou=frame,BASE"),
        ("", "left over", "ou=half,BASE"),
    }
    assert await mended(driver, jobs, ldap) == set()
    assert ldap.entries() == foreign
    assert healthy.items() <= foreign.items()


@pytest.mark.real
@pytest.mark.root
async def test_what_came_right_meanwhile_is_left_alone(
    driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> None:
    """A set-up that begins after the survey, or while it is mended."""
    newer = replace(jobs[3], slice="red", lease="lease-red")
    await driver.setup(newer, print)
    ldap.delete("cn=n4,ou=hosts,ou=red,BASE")
    told = await driver.survey(jobs, print)
    assert [one.what for one in told] == [f"ou=red,{ldap.base}"]
    await driver.setup(newer, print)
    before = ldap.entries()
    await driver.mend(told, None, print)
    assert ldap.entries() == before
    for _ in range(5):
        ldap.delete("cn=n4,ou=hosts,ou=red,BASE")
        await asyncio.gather(
            *(driver.mend(told, None, print) for _ in range(3)), driver.setup(newer, print)
        )
        assert ldap.entries() == before


@pytest.mark.real
@pytest.mark.root
async def test_two_leases_of_one_slice_may_name_their_users(
    directory_driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> None:
    first, second = (
        replace(job, properties={"user": name})
        for job, name in zip(jobs[:2], ("ann", "bob"), strict=True)
    )
    for job in (first, second):
        await directory_driver.setup(job, print)
    assert await directory_driver.survey([first, second], print) == []
    await directory_driver.teardown(second, print)
    told = [line for lines in ldap.entries().values() for line in lines if "Triple" in line]
    assert told
    assert not any("n2" in line for line in told)
    assert await directory_driver.survey([first], print) == []
    await directory_driver.teardown(first, print)
    assert list(ldap.entries()) == [ldap.base]


@pytest.mark.real
@pytest.mark.root
async def test_more_entries_than_a_server_gives_at_once(
    driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> None:
    host = "changetype: add\nobjectClass: device\nobjectClass: ipHost\nipHostNumber: 192.0.2.4\n"
    many = [
        f"dn: cn=u{number},ou=hosts,{GREEN}\n{host}description: lease x\n" for number in range(1100)
    ]
    ldap.change("\n".join(many))
    idle = [replace(jobs[3], unit=f"u{number}") for number in range(1100)]
    told = [one for one in await driver.survey(idle, print) if one.fault == "left over"]
    assert len(told) == len(idle)


@pytest.mark.real
@pytest.mark.root
async def test_a_directory_that_is_down_can_not_be_surveyed(
    driver: DirectoryDriver, jobs: list[UnitJob], testbed: Testbed, ldap: Ldap
) -> None:
    testbed.stop_directory()
    try:
        with pytest.raises(Unavailable):
            await driver.survey(jobs, print)
        with pytest.raises(Unavailable):
            await driver.mend([], jobs[0], print)
    finally:
        testbed.start_directory()
    assert await driver.survey(jobs, print) == []


@pytest.mark.real
@pytest.mark.root
async def test_a_unit_without_a_known_address_hides_no_other(
    driver: DirectoryDriver, jobs: list[UnitJob], ldap: Ldap
) -> None:
    nowhere = replace(jobs[0], node={**jobs[0].node, "host": "a..b"})
    ldap.delete(f"cn=n2,ou=hosts,{GREEN}")
    told = await driver.survey([nowhere, *jobs[1:]], print)
    assert [one.unit for one in told] == ["n2"]


@pytest.mark.real
@pytest.mark.root
async def test_a_slice_that_no_directory_can_name_is_refused_and_not_retried(
    directory_driver: DirectoryDriver, jobs: list[UnitJob]
) -> None:
    for name in ("", "nul\0", "half\ud800"):
        job = replace(jobs[0], slice=name)
        with pytest.raises(Unsuitable, match="can not be written"):
            await directory_driver.setup(job, print)
        assert await directory_driver.teardown(job, print) == ("directory_gone",)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(text, st.sampled_from(["dc=x", "DC=X", "dc = x ", "ou=a\\,b, dc=x", "ou=a\\2Cb,dc=x"]))
def test_a_name_is_found_however_it_is_written(name: str, base: str) -> None:
    """People, this driver and the directory escape the same name in different ways."""
    octets = "".join(f"\\{octet:02x}" for octet in name.encode())
    ways = {f"ou={octets},{base}", f" OU={octets} , {base}", slice_dn(name, base)}
    trees = []
    for way in ways:
        tree = Tree(base)
        tree.add(way, {"description": ["Shirako slice"]})
        tree.add(f"ou=hosts,{way}", {})
        trees.append([(found.ou, found.folders, found.marked) for found in tree.slices.values()])
    assert trees == [[(name, {"", "hosts"}, True)]] * len(ways)


@given(st.lists(st.text()), st.text())
def test_any_name_in_a_directory_is_taken(names: list[str], base: str) -> None:
    tree = Tree(base)
    for name in names:
        tree.add(name, {})
        tree.add(f"{name},{base}", {"objectClass": [b"\xff"], "cn": ["x"]})
        tree.add(f"cn={escape_rdn(f'x{name}')},ou=hosts,ou=a,{base}", {"objectClass": ["ipHost"]})
