"""BOUNDED, and fair: nobody fills an actor's books alone, and the counts are what is there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from shirako.actors import room as rooms
from shirako.actors.role import Role
from shirako.actors.room import Full, Room
from shirako.core.machine import state_of
from shirako.core.terms import Term
from tests.core.cast import open_guest, party_of, wish
from tests.scenarios.stage import Stage

TERM = Term(90, 200)


def crowded(peers: int, **kept: int) -> Room:
    """A room with so many live leases of each guest, who answers for its own."""
    room = Room(leases_a_guest=10, peers=peers)
    for guest, count in kept.items():
        for number in range(count):
            room.take(wish(f"{guest}{number}", TERM, guest=guest), party_of(guest).kid)
    return room


def has_room(room: Room, name: str) -> bool:
    try:
        room.check()
        room.check_share(party_of(name).kid, name)
    except Full:
        return False
    return True


def check_counts(role: Role[Any]) -> None:
    """What the room has counted is what is there; and what another start would count."""
    counted = (role.room._records, dict(role.room._live), dict(role.room._kept))
    live = Counter(k[0] for k, one in role.leases.items() if not state_of(one).final)
    kept = Counter(role.sponsor(one) for one in role.leases.values())
    assert counted == (len(role.leases), dict(live), dict(kept))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "RECORDS_MAX", 12)


@pytest.mark.usefixtures("small")
def test_one_that_came_first_leaves_the_others_their_share() -> None:
    room = crowded(3, greedy=6)
    assert not has_room(room, "greedy")
    assert has_room(room, "modest")
    room = crowded(3, greedy=6, modest=1)
    assert has_room(room, "modest")
    assert not has_room(crowded(3, greedy=6, modest=2), "modest")
    # all have had their shares: nobody gets in, and it is full no sooner than that
    room = crowded(3, greedy=6, modest=2, third=2)
    assert not any(has_room(room, name) for name in ("greedy", "modest", "third"))


@pytest.mark.usefixtures("small")
def test_who_is_alone_may_fill_the_books_and_half_of_them_is_for_whoever_comes_first() -> None:
    assert has_room(crowded(1, alone=11), "alone")
    assert not has_room(crowded(1, alone=12), "alone")
    assert has_room(crowded(2, greedy=5), "greedy")


def test_a_guest_has_so_many_that_live() -> None:
    room = crowded(1, busy=9)
    kid = party_of("busy").kid
    room.check_live(kid, "busy")
    room.take(wish("last", TERM, guest="busy"), kid)
    with pytest.raises(Full, match="busy has 10 live leases here, and may have 10 at the same"):
        room.check_live(kid, "busy")
    room.check_live(party_of("other").kid, "other")


def test_a_broker_sells_a_guest_no_more_than_may_live_and_others_go_on() -> None:
    stage = Stage(
        units=["n1", "n2", "n3", "n4"], guests=["guest", "other"], leases_a_guest={"broker": 2}
    )
    stage.delegate(4, Term(0, 10_000))
    for name in ("a", "b", "c"):
        stage.request(name, 1, TERM)
    stage.settle()
    assert [stage.state("site", name) for name in ("a", "b", "c")] == ["Active", "Active", "-"]
    refused = [line for line in stage.trace if "refused" in line]
    assert refused
    assert all("(overloaded): guest has 2 live leases here" in one for one in refused)
    stage.request("d", 1, TERM, guest="other")
    stage.settle()
    assert stage.state("site", "d") == "Active"
    stage.close("a")  # what is closed does not count, though it still answers
    stage.settle()
    assert [stage.state("broker", name) for name in ("a", "c")] == ["Closed", "Ticketed"]
    assert stage.state("site", "c") == "Active"
    for name in ("broker", "site", "guest"):
        check_counts(stage.roles[name])
        stage.crash(name)
        check_counts(stage.roles[name])
    stage.tick(300)
    stage.settle()
    stage.tick(20_000)
    for name in ("broker", "site", "guest"):
        assert not stage.roles[name].leases
        check_counts(stage.roles[name])


def test_a_site_lets_so_many_of_a_guest_live_and_lets_it_give_back_the_others() -> None:
    stage = Stage(units=["n1", "n2", "n3"], leases_a_guest={"site": 2})
    stage.delegate(3, Term(0, 10_000))
    for name in ("a", "b", "c"):
        stage.request(name, 1, TERM)
    stage.settle()
    assert stage.state("site", "c") == "-"
    assert any("(overloaded)" in line and "2 live leases" in line for line in stage.trace)
    stage.close("c")  # its ticket was never redeemed: the site takes that back, full or not
    stage.settle()
    assert [stage.state(name, "c") for name in ("guest", "site", "broker")] == ["Closed"] * 3
    check_counts(stage.site)


@pytest.mark.usefixtures("small")
def test_closed_leases_take_room_until_they_are_forgotten() -> None:
    stage = Stage(guests=["guest", "other"])
    stage.delegate(1, Term(0, 10_000))
    for number in range(7):
        stage.request(f"r{number}", 1, TERM)
        stage.settle()
        if number < 6:
            stage.close(f"r{number}")
            stage.settle()
    assert stage.record("broker", "r6") is None
    assert any("and guest has its share: 3 leases" in line for line in stage.trace)
    stage.request("of-other", 1, TERM, guest="other")
    stage.settle()
    assert stage.state("site", "of-other") == "Active"
    stage.tick(5_000)
    assert len(stage.broker.leases) == 0
    stage.request("late", 1, Term(5_000, 5_100))
    stage.settle()
    assert stage.state("site", "late") == "Active"


def test_a_guest_has_no_such_limit_on_what_it_asks_for_itself() -> None:
    guest = open_guest()
    guest.room._leases_a_guest = 1
    for name in ("a", "b"):
        guest.request(wish(name, TERM), 90, "me")
    assert len(guest.leases) == 2
