"""DURABLE: `kill -9` of each actor in each phase of a lease; it is started again, and the lease
goes on. Nothing is lost, and nothing is done twice in effect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from trio import Trio

pytestmark = pytest.mark.real

ACTORS = ("site", "broker", "guest")
SLOW = {
    "driver": 'delay="1.0"',
    "guest_driver": '<guest-driver name="null" delay="0.6"/>',
}


def clean(trio: Trio, lease: str) -> None:
    """All three agree that it is over, and every unit was given out once and is free again."""
    ended = trio.guest.until(f"/leases/{lease}", lambda a: a["final"])
    assert ended["state"] == "Closed", ended
    assert trio.guest.get(f"/leases/{lease}/proofs")["receipt"], "closed without a receipt"
    site = trio.site.until(f"/site/leases?id={lease}", lambda a: a["leases"][0]["final"])
    assert site["leases"][0]["state"] == "Closed"
    assert len(site["leases"][0]["assignments"]) == 2, "a unit was assigned twice"
    nodes = trio.site.get("/site/nodes")["nodes"]
    assert {node["state"] for node in nodes} == {"free"}

    def relinquished(answer: Any) -> bool:
        return all(lease["state"] == "Closed" for lease in answer["leases"])

    trio.broker.until("/broker/leases", relinquished)
    (calendar,) = trio.broker.get("/broker/calendar")["calendar"]
    # what is sold ends with the receipts; nothing is booked for the rest of the hour's term
    assert calendar["steps"][-2]["booked"] == 0, calendar


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("phase", ["Ticketing", "Redeeming", "Joining", "Active"])
def test_killed_on_the_way_up(trio: Callable[..., Trio], actor: str, phase: str) -> None:
    three = trio(**SLOW)
    if phase == "Ticketing":
        three.processes.kill("broker")  # nobody answers the request
    lease = three.request(units=2)
    three.guest.until_state(lease, phase)
    if not (actor == "broker" and phase == "Ticketing"):
        three.processes.kill(actor)
        three.processes.start(actor)
    if phase == "Ticketing":
        three.processes.start("broker")
    three.guest.until_state(lease, "Active")
    three.guest.post(f"/leases/{lease}/close", {})
    clean(three, lease)


@pytest.mark.parametrize("actor", ACTORS)
def test_killed_while_extending(trio: Callable[..., Trio], actor: str) -> None:
    three = trio()
    lease = three.request(units=2)
    before = three.guest.until_state(lease, "Active")
    three.processes.kill("broker")
    asked = threading.Thread(
        target=three.guest.try_post, args=(f"/leases/{lease}/extend", {"by": "1h"})
    )
    asked.start()
    three.guest.until_state(lease, "ExtendingTicket")
    if actor != "broker":
        three.processes.kill(actor)
        three.processes.start(actor)
    three.processes.start("broker")
    after = three.guest.until(
        f"/leases/{lease}", lambda a: a["state"] == "Active" and a["end"] != before["end"]
    )
    asked.join()
    assert after["answer"]["refused"] == ""
    site = three.site.get(f"/site/leases?id={lease}")["leases"][0]
    assert site["end"] == after["end"]
    three.guest.post(f"/leases/{lease}/close", {})
    clean(three, lease)


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("phase", ["Leaving", "CloseWait"])
def test_killed_on_the_way_down(trio: Callable[..., Trio], actor: str, phase: str) -> None:
    three = trio(**SLOW)
    lease = three.request(units=2)
    three.guest.until_state(lease, "Active")
    three.guest.post(f"/leases/{lease}/close", {})
    three.guest.until_state(lease, phase)
    three.processes.kill(actor)
    three.processes.start(actor)
    clean(three, lease)


def test_all_three_killed_at_once(trio: Callable[..., Trio]) -> None:
    three = trio(**SLOW)
    leases = [three.request(units=2) for _ in range(2)]
    for actor in ACTORS:
        three.processes.kill(actor)
    three.processes.start(*ACTORS)
    for lease in leases:
        three.guest.until_state(lease, "Active")
    for lease in leases:
        three.guest.post(f"/leases/{lease}/close", {})
    for lease in leases:  # the units of one are not free before the other one is over
        three.guest.until(f"/leases/{lease}", lambda a: a["final"])
    for lease in leases:
        clean(three, lease)
