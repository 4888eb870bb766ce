"""What every ledger promises: all or nothing, reload, stories, and a log that shows its changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homes import KINDS, Home, MakeHome, chain, entry, records
from shirako.ledger import (
    CountedLedger,
    Entry,
    Ledger,
    LedgerError,
    Link,
    Write,
    encode_entries,
    link_hash,
    verify_links,
)
from shirako.ledger.memory import MemoryLedger

Reopen = Callable[[Ledger], Ledger]


@pytest.fixture(params=KINDS)
def home(request: pytest.FixtureRequest, make_home: MakeHome) -> Home:
    return make_home(request.param)


@pytest.fixture
def ledger(home: Home) -> Ledger:
    return home.open()


@pytest.fixture
def reopen(home: Home) -> Reopen:
    """The ledger as an actor finds it after it was restarted."""

    def again(ledger: Ledger) -> Ledger:
        ledger.close()
        return home.open()

    return again


def test_a_new_ledger_is_empty(ledger: Ledger) -> None:
    assert records(ledger) == {}
    assert ledger.story("g/L1") == []
    assert verify_links(ledger.links()) == 0


def test_what_was_committed_is_there_after_a_restart(ledger: Ledger, reopen: Reopen) -> None:
    """DURABLE."""
    ledger.commit(
        [Write("lease", "g/L1", b"1"), Write("lease", "g/L2", b"2"), Write("unit", "/n1", b"3")],
        [entry("g/L1", "Requested"), entry("g/L2", "Requested")],
    )
    ledger.commit([Write("lease", "g/L1", b"11")], [entry("g/L1", "Granted", 2)])
    ledger.commit([Write("lease", "g/L2", None)], [])
    again = reopen(ledger)
    assert records(again) == {("lease", "g/L1"): b"11", ("unit", "/n1"): b"3"}
    assert [e.what for e in again.story("g/L1")] == ["Requested", "Granted"]
    assert [e.what for e in again.story("g/L2")] == ["Requested"]
    assert verify_links(again.links()) == 2
    again.commit([], [entry("g/L1", "Closed", 3)])
    assert verify_links(again.links()) == 3
    again.close()


def test_kinds_and_keys_do_not_run_into_each_other(ledger: Ledger) -> None:
    ledger.commit([Write("lease", "a/b", b"1"), Write("leasea", "/b", b"2")], [])
    ledger.commit([Write("lease", "a/b", None), Write("unit", "never/was", None)], [])
    assert records(ledger) == {("leasea", "/b"): b"2"}


def test_the_last_write_of_a_commit_counts(ledger: Ledger) -> None:
    ledger.commit([Write("lease", "g/L1", b"old"), Write("lease", "g/L1", b"new")], [])
    assert records(ledger) == {("lease", "g/L1"): b"new"}


def test_bodies_are_bytes_as_they_were_given(ledger: Ledger, reopen: Reopen) -> None:
    body = bytes(range(256)) * 100
    ledger.commit([Write("lease", "g/L1", body), Write("lease", "g/empty", b"")], [])
    again = reopen(ledger)
    assert records(again) == {("lease", "g/L1"): body, ("lease", "g/empty"): b""}
    again.close()


def test_stories_are_kept_apart_and_in_order(ledger: Ledger) -> None:
    for tick in range(1, 6):
        ledger.commit([], [entry(f"g/L{n}", f"{tick}.{n}", tick) for n in (1, 2, 1)])
    assert [e.what for e in ledger.story("g/L1")] == [f"{t}.1" for t in range(1, 6) for _ in (1, 2)]
    assert [e.tick for e in ledger.story("g/L2")] == [1, 2, 3, 4, 5]
    assert ledger.story("g/L") == []
    assert ledger.story("g/L1")[0] == entry("g/L1", "1.1")


def test_a_story_outlives_its_record(ledger: Ledger, reopen: Reopen) -> None:
    ledger.commit([Write("lease", "g/L1", b"1")], [entry("g/L1", "Requested")])
    ledger.commit([Write("lease", "g/L1", None)], [entry("g/L1", "Closed")])
    again = reopen(ledger)
    assert [e.what for e in again.story("g/L1")] == ["Requested", "Closed"]
    again.close()


def test_a_key_may_be_any_text(ledger: Ledger, reopen: Reopen) -> None:
    """Peers choose the ids of their reservations."""
    texts = ["", "\0", "a\0b", "\\000", "\\x00", "'", '"', "\U0001f4a9", "\ufffe", "é", "e\u0301"]
    writes = [Write("lease", key, key.encode()) for key in texts]
    ledger.commit(writes, [entry(key, "made") for key in texts])
    again = reopen(ledger)
    assert records(again) == {("lease", key): key.encode() for key in texts}
    assert all([e.lease for e in again.story(key)] == [key] for key in texts)


def test_each_kind_writes_the_same_log_and_adds_up_to_the_same(ledger: CountedLedger) -> None:
    twin = MemoryLedger()
    for tick in range(5):
        for one in (twin, ledger):
            writes = [Write("lease", f"g/L{tick % 3}", b"%d" % tick), Write("lease", "g/L0", None)]
            one.commit(writes, [entry("g/L1", "step", tick)] * (tick % 3))
        assert ledger.total() == twin.total()
    assert list(twin.links()) == list(ledger.links())
    assert sorted(twin.load()) == sorted(ledger.load())


SOUND = chain([entry("g/L1", "a")], [entry("g/L1", "b")], [entry("g/L2", "c")])


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        ([SOUND[0], SOUND[1]._replace(body=SOUND[1].body.replace(b"b", b"B", 1)), SOUND[2]], 2),
        ([SOUND[0], SOUND[2]], 3),
        ([SOUND[1], SOUND[0], SOUND[2]], 2),
        ([SOUND[0]._replace(hash="0" * 64), *SOUND[1:]], 1),
        (SOUND[1:], 2),
        ([SOUND[0], SOUND[0], *SOUND[1:]], 1),
        ([SOUND[0], SOUND[1]._replace(number=5), SOUND[2]], 5),
    ],
)
def test_a_changed_log_names_the_first_entry_that_does_not_fit(
    changed: list[Link], number: int
) -> None:
    assert verify_links(SOUND) == 3
    with pytest.raises(LedgerError, match=f"entry {number} does not follow"):
        verify_links(changed)


def test_a_rewritten_entry_breaks_every_later_link(ledger: Ledger) -> None:
    """Who rewrites an entry and its own hash is still found by the next link."""
    for what in ("a", "b", "c"):
        ledger.commit([], [entry("g/L1", what)])
    links = list(ledger.links())
    body = encode_entries([entry("g/L1", "forged")])
    links[1] = Link(2, body, link_hash(links[0].hash, body))
    with pytest.raises(LedgerError, match="entry 3"):
        verify_links(links)


KEYS = st.sampled_from(["g/L1", "g/L2", "g/L3", "h/L1"])
WRITES = st.builds(
    Write, st.sampled_from(["lease", "unit"]), KEYS, st.none() | st.binary(max_size=6000)
)
ENTRIES = st.builds(entry, KEYS, st.text(max_size=20))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", KINDS[2:])
@given(
    commits=st.lists(
        st.tuples(st.lists(WRITES, max_size=5), st.lists(ENTRIES, max_size=4)), max_size=6
    ),
    reopened=st.integers(0, 6),
)
def test_twin_and_real_agree_whatever_is_committed(
    make_home: MakeHome,
    kind: str,
    commits: list[tuple[list[Write], list[Entry]]],
    reopened: int,
) -> None:
    """And what the commits left adds up: the ledger opens again, and its mirror can be read."""
    home = make_home(kind)
    twin, real = MemoryLedger(), home.open()
    for number, (writes, entries) in enumerate(commits):
        if number == reopened:
            real.close()
            real = home.open()
        twin.commit(writes, entries)
        real.commit(writes, entries)
    real.close()
    real = home.open()
    assert records(real) == records(twin)
    assert list(real.links()) == list(twin.links())
    for lease in ("g/L1", "g/L2", "g/L3", "h/L1"):
        assert real.story(lease) == twin.story(lease)
    real.close()
    if home.place is not None:
        assert home.mirror().head.total == twin.total()
        assert home.mirrored_records() == records(twin)
