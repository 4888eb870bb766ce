"""A mirror in a real directory: whole at every moment, late at worst, and nobody waits for it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ldap3
import pytest

from homes import Home, MakeHome, await_mirror, entry, records
from shirako import certificates
from shirako.ledger import Lag, Ledger, LedgerError, LedgerLost, Write
from shirako.ledger.memory import MemoryLedger, MemorySnapshot
from shirako.ledger.mirror import entries, following
from shirako.ledger.mirror.directory import Directory, HeadChanged, MirrorUnreachable
from shirako.ledger.mirror.entries import Names, change, head_of
from shirako.ledger.mirror.ledger import MirroredLedger, SharedMirroredLedger, mirrored
from shirako.ledger.mirror.place import MirrorPlace
from shirako.ledger.mirror.writing import Writing
from shirako.testbed.children import Children
from shirako.testbed.components import program
from shirako.testbed.remains import Remains
from shirako.testbed.slapd import LEDGERS_DN, Slapd

pytestmark = pytest.mark.real


def lag(ledger: Ledger) -> Lag:
    assert isinstance(ledger, MirroredLedger)
    return ledger.lag()


def await_trouble(ledger: Ledger, told: str) -> str:
    """What the mirror says is wrong, once it says so."""
    deadline = time.monotonic() + 60
    while told not in lag(ledger).trouble:
        assert time.monotonic() < deadline, lag(ledger)
        time.sleep(0.01)
    return lag(ledger).trouble


def commit(ledger: Ledger, *numbers: int, body: bytes = b"x") -> None:
    for number in numbers:
        ledger.commit(
            [Write("lease", f"g/L{number}", body)], [entry(f"g/L{number}", "made", number)]
        )


@pytest.fixture
def own_slapd(tmp_path: Path) -> Iterator[Slapd]:
    """A directory that a test may stop."""
    server = Slapd(tmp_path / "directory", Children(Remains(tmp_path / "remains")))
    server.start_empty()
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def home(make_home: MakeHome) -> Home:
    return make_home("sqlite+mirror")


@pytest.fixture
def far_home(make_home: MakeHome, own_slapd: Slapd) -> Home:
    """With its mirror in `own_slapd`."""
    home = make_home("sqlite")
    directory = own_slapd.directory
    home.place = MirrorPlace(
        url=directory.url,
        base=LEDGERS_DN,
        user=directory.bind_dn,
        password_file=directory.password_file,
    )
    return home


# Every step ----------------------------------------------------------------------------------


class _Died(Exception):
    """The writer is gone."""


class _Mortal(Directory):
    """Its user dies before or after some request, which the directory then has done or not."""

    left = 0
    after = False

    def _ask(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise _Died
        done = super()._ask(*arguments, **named)
        if self.left == 0:
            raise _Died
        return done


def deaths(place: MirrorPlace, write: Callable[[Directory], None]) -> Iterator[int]:
    """Write again and again, each time dying one request later, until it is done."""
    for after in (False, True):
        for left in itertools.count(1):
            try:
                with _Mortal(place) as mortal:
                    mortal.left, mortal.after = left, after
                    write(mortal)
            except _Died:
                yield left
            else:
                break


State = tuple[MemorySnapshot, dict[tuple[str, str], bytes]]


def state(ledger: MemoryLedger) -> State:
    with ledger.snapshot() as snapshot:
        return snapshot, records(ledger)


@pytest.mark.parametrize("how", ["move", "catch-up"])
def test_whenever_its_writer_dies_the_mirror_is_one_state_whole(
    make_home: MakeHome, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATOMIC: that before or that after, and who comes next finds it in order."""
    monkeypatch.setattr(entries, "PART_BYTES", 300)  # so that a journal has several parts
    ledger = MemoryLedger()
    commit(ledger, 1, 2, 3, body=b"old" * 40)
    old, old_records = state(ledger)
    writes = [Write("lease", "g/L1", None)]
    writes += [Write("lease", f"g/L{number}", b"new" * 50) for number in (2, 4)]
    ledger.commit(writes, [entry("g/L1", "changed", 9)])
    new, new_records = state(ledger)
    home = make_home("memory+mirror")
    assert home.place is not None
    names, after = Names(home.place.base, home.actor), head_of(new.total, new.tick)

    def lead_to(snapshot: MemorySnapshot) -> Callable[[Directory], None]:
        def lead(directory: Directory) -> None:
            writing = Writing(directory, names, lambda: None)
            head = writing.open()
            if how == "catch-up" or snapshot is old:
                writing.catch_up(head, lambda: nullcontext(snapshot))
            else:
                writing.move(head, after, [change(*write) for write in writes])

        return lead

    def prepared() -> None:
        with Directory(home.place) as directory:  # type: ignore[arg-type] # it has one
            lead_to(old)(directory)

    found = []
    prepared()
    for _ in deaths(home.place, lead_to(new)):
        found.append(home.mirror().head.commits)
        expected = old_records if found[-1] == old.total.commits else new_records
        assert home.mirrored_records() == expected
        with Directory(home.place) as directory:
            Writing(directory, names, lambda: None).open()
            assert not list(directory.below(names.journal, "cn"))
        assert home.mirror().head.commits == found[-1]
        assert home.mirrored_records() == expected
        prepared()
    assert set(found) == {old.total.commits, new.total.commits}


# Outages -------------------------------------------------------------------------------------


def test_an_outage_delays_nothing_and_is_made_up_for(far_home: Home, own_slapd: Slapd) -> None:
    ledger = far_home.open()
    commit(ledger, *range(5))
    await_mirror(ledger)
    own_slapd.stop()
    commit(ledger, *range(3, 30))
    await_trouble(ledger, "ldap://")
    behind = lag(ledger)
    assert behind.commits == 27
    assert behind.seconds > 0
    own_slapd.start()
    await_mirror(ledger)
    assert lag(ledger) == Lag(0, 0.0, "")
    assert far_home.mirrored_records() == records(ledger)


def test_a_restart_during_an_outage_is_made_up_for(far_home: Home, own_slapd: Slapd) -> None:
    """Nobody remembers what was committed: everything is compared."""
    ledger = far_home.open()
    commit(ledger, *range(5))
    await_mirror(ledger)
    own_slapd.stop()
    commit(ledger, *range(3, 9))
    ledger.commit([Write("lease", "g/L0", None)], [])
    ledger.close()
    ledger = far_home.open()
    assert lag(ledger).commits is None
    own_slapd.start()
    await_mirror(ledger)
    assert far_home.mirrored_records() == records(ledger)


def test_more_than_is_remembered_is_compared(
    far_home: Home, own_slapd: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BOUNDED: a long outage costs a comparison, and no memory."""
    monkeypatch.setattr(following, "GATHERED_BYTES", 5000)
    ledger = far_home.open()
    assert isinstance(ledger, MirroredLedger)
    await_mirror(ledger)
    own_slapd.stop()
    commit(ledger, *range(50), body=b"x" * 400)
    gathering = ledger._follower._gathering
    assert gathering._changes is None
    own_slapd.start()
    await_mirror(ledger)
    assert far_home.mirrored_records() == records(ledger)
    commit(ledger, 1)
    await_mirror(ledger)
    assert far_home.mirrored_records() == records(ledger)


def test_a_directory_that_hangs_keeps_nobody(far_home: Home, own_slapd: Slapd) -> None:
    ledger = far_home.open()
    commit(ledger, 1)
    await_mirror(ledger)
    assert own_slapd._child is not None
    pid = own_slapd._child.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        commit(ledger, *range(20))
        assert len(records(ledger)) == 20
        ledger.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    ledger = far_home.open()
    await_mirror(ledger)
    assert far_home.mirrored_records() == records(ledger)


def test_what_was_not_answered_is_looked_at_again(
    far_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that nobody waits for any more may be done after those that came later."""
    ledger = far_home.open()
    commit(ledger, 1)
    await_mirror(ledger)
    assert far_home.place is not None
    put = Directory.put

    def late(directory: Directory, dn: str, kind: str, values: dict[str, bytes]) -> None:
        if kind == entries.RECORD:
            raise MirrorUnreachable("no answer")
        put(directory, dn, kind, values)

    with monkeypatch.context() as patched:
        patched.setattr(Directory, "put", late)
        commit(ledger, 1, body=b"old")
        await_trouble(ledger, "no answer")
    commit(ledger, 1, body=b"new")
    await_mirror(ledger)
    names, old = Names(far_home.place.base, far_home.actor), change("lease", "g/L1", b"old")
    with Directory(far_home.place) as directory:
        directory.put(names.record(old.cn), entries.RECORD, old.values)
        directory.remove(names.part("0"))
    with pytest.raises(LedgerError, match="older or newer"):
        far_home.mirror()
    # as if so much time had gone by; without the doubt a day would have to
    passed = following.COMPARE_SECONDS - following.DOUBT_SECONDS
    monkeypatch.setattr(following, "COMPARE_SECONDS", passed)
    commit(ledger, 2)
    await_mirror(ledger)
    assert far_home.mirrored_records() == records(ledger)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"password_file": Path("/nowhere/password")}, "can not be read"),
        ({"user": "cn=nobody,dc=shirako,dc=test"}, "refuses to take cn=nobody"),
        ({"base": "ou=nowhere,dc=shirako,dc=test"}, "noSuchObject"),
        ({"start_tls": True}, "ldap://"),
    ],
)
def test_what_is_wrong_is_told_without_the_password(
    home: Home, wrong: dict[str, Any], told: str
) -> None:
    assert home.place is not None
    password = home.place.password_file.read_text()
    home.place = replace(home.place, **wrong)
    ledger = home.open()
    commit(ledger, 1)
    assert password not in await_trouble(ledger, told)
    assert lag(ledger).commits is None
    assert records(ledger)


# Others --------------------------------------------------------------------------------------


class _Shared(MemoryLedger):
    """Another copy of the actor may have taken it over."""

    holds: bool | None = True

    def held(self) -> bool:
        if self.holds is None:
            raise LedgerLost("another process has taken over")
        return self.holds


def test_who_does_not_hold_the_ledger_writes_no_mirror(make_home: MakeHome) -> None:
    home, shared = make_home("memory+mirror"), _Shared()
    assert home.place is not None
    ledger = mirrored(shared, shared.snapshot, home.place, home.actor)
    assert isinstance(ledger, SharedMirroredLedger)
    commit(ledger, 1)
    await_mirror(ledger)
    shared.holds = False
    assert not ledger.held()
    commit(ledger, 2)
    await_trouble(ledger, "may not be the one that acts")
    assert home.mirror().head.commits == 1
    shared.holds = True
    await_mirror(ledger)
    assert home.mirror().head.commits == 2
    shared.holds = None
    commit(ledger, 3)
    ledger._follower._thread.join(60)
    assert not ledger._follower._thread.is_alive()
    assert home.mirror().head.commits == 2
    ledger.close()


def test_two_who_write_the_same_mirror_do_not_mix(make_home: MakeHome) -> None:
    """The head is moved from what was read alone."""
    home, ledger = make_home("memory+mirror"), MemoryLedger()
    assert home.place is not None
    names = Names(home.place.base, home.actor)
    commit(ledger, 1)
    with ledger.snapshot() as first, Directory(home.place) as one, Directory(home.place) as other:
        writing, rival = (Writing(each, names, lambda: None) for each in (one, other))
        head, seen = writing.open(), rival.open()
        writing.catch_up(head, lambda: nullcontext(first))
        commit(ledger, 2)
        with pytest.raises(HeadChanged, match="somebody else writes"):
            rival.catch_up(seen, ledger.snapshot)
    assert home.mirror().head.total == first.total
    assert len(home.mirrored_records()) == 1


def test_a_ledger_that_went_back_takes_its_mirror_with_it(home: Home, tmp_path: Path) -> None:
    """As after a restore: what the ledger is, and not what has the larger number, counts."""
    ledger = home.open()
    commit(ledger, *range(20))
    ledger.close()
    assert isinstance(home.where, Path)
    home.where = tmp_path / "other.sqlite"
    ledger = home.open()
    commit(ledger, 3, body=b"other")
    await_mirror(ledger)
    assert home.mirrored_records() == records(ledger)


def test_entries_changed_by_hand_are_put_right_when_all_is_compared(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = home.open()
    commit(ledger, *range(5))
    ledger.close()
    assert home.place is not None
    names = Names(home.place.base, home.actor)
    with Directory(home.place) as directory:
        directory.remove(names.record(change("lease", "g/L1", b"").cn))
        forged = change("lease", "g/L2", b"forged")
        directory.put(names.record(forged.cn), entries.RECORD, forged.values)
        strange = change("lease", "g/L9", b"strange")
        directory.put(names.record(strange.cn), entries.RECORD, strange.values)
    with pytest.raises(LedgerError, match="is not what was written"):
        home.mirror()
    monkeypatch.setattr(following, "COMPARE_SECONDS", 0.0)
    ledger = home.open()
    await_mirror(ledger)
    ledger.close()
    assert home.mirrored_records() == records(home.open())


def test_nobody_else_reads_the_mirrors_of_a_testbed(home: Home) -> None:
    """ISOLATED: a ledger names all guests, and what they configure."""
    home.open().close()
    assert home.place is not None
    server = ldap3.Server(home.place.url, get_info=ldap3.NONE)
    with ldap3.Connection(server, client_strategy=ldap3.SAFE_SYNC) as anybody:
        _, _, found, _ = anybody.search(home.place.base, "(objectClass=*)", ldap3.SUBTREE)
    assert [one for one in found or [] if one["type"] == "searchResEntry"] == []


# ldap3's own check of names is older than Python's; where it fails, ldap3 leaves a socket open.
@pytest.mark.filterwarnings("ignore:ssl.match_hostname:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
def test_a_directory_is_written_over_tls_to_whom_its_authority_vouches_for(
    far_home: Home, own_slapd: Slapd, tmp_path: Path
) -> None:
    own_slapd.stop()
    folder, now = tmp_path / "certificates", datetime.now(UTC)
    authority = certificates.make_authority(folder, "test", now, 3)
    certificates.issue(folder, "ldap", ("127.0.0.1",), now, 2)
    configuration = tmp_path / "directory" / "slapd.conf"
    tls = f"TLSCertificateFile {folder}/ldap.pem\nTLSCertificateKeyFile {folder}/ldap.key\n"
    text = configuration.read_text().replace(
        "database mdb", f"{tls}security tls=1\ndatabase mdb", 1
    )
    configuration.write_text(text)
    own_slapd.start()
    own_slapd.await_ready()
    assert far_home.place is not None
    plain, started = far_home.place, replace(far_home.place, start_tls=True)
    for far_home.place in (plain, started):
        ledger = far_home.open()
        await_trouble(ledger, "ldap://")
        ledger.close()
    far_home.place = replace(started, ca=authority)
    ledger = far_home.open()
    commit(ledger, 1)
    await_mirror(ledger)
    assert far_home.mirrored_records() == records(ledger)


def test_both_forms_of_the_schema_say_the_same_and_servers_take_them(tmp_path: Path) -> None:
    """The testbed's server takes `shirako.schema`; those with cn=config take `shirako.ldif`."""
    folder = Path(entries.__file__).parent
    schema = (folder / "shirako.schema").read_text()
    ldif = (folder / "shirako.ldif").read_text()
    for old, new in (
        ("objectidentifier", "olcObjectIdentifier:"),
        ("attributetype", "olcAttributeTypes:"),
        ("objectclass", "olcObjectClasses:"),
    ):
        schema = re.sub(f"^{old}\\b", new, schema, flags=re.MULTILINE)
    said = [line for line in schema.splitlines() if line and not line.startswith("#")]
    assert " ".join(" ".join(said).split()) == " ".join(ldif.split("cn: shirako\n")[1].split())
    base = (
        "dn: cn=config\nobjectClass: olcGlobal\n\n"
        "dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\n\n"
        f"{Path('/etc/ldap/schema/core.ldif').read_text()}\n\n{ldif}"
    )
    (tmp_path / "config").mkdir()
    command = [program("slapadd"), "-n", "0", "-F", str(tmp_path / "config")]
    done = subprocess.run(command, input=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
