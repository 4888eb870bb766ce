"""What breaks at a site, on real nodes: a hung sshd, a full disk, a teardown that can not be done,
a hung directory, an authority that dies meanwhile. Faults are made on the nodes from outside.

Each test leaves all nodes clean and free, so that they may run in any order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from realworld import NODES, World

pytestmark = [pytest.mark.real, pytest.mark.root]

ROOT = Path(__file__).parent.parent.parent
LOCK = "/var/lib/shirako/lock"
"""What every handler takes before it begins: whoever holds it makes the others wait."""
MEND = r"""
for user in $(sed -n 's/^\(s-[^:]*\):.*/\1/p' /etc/passwd); do userdel -f -P /. "$user"; done
rm -rf /home/s-* /var/lib/shirako/account
"""


@pytest.fixture(scope="module")
def site_descriptor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, for a site that loses patience quickly, though not on a machine that is busy
    with other tests: a set-up is two logins and some hundred processes on the node."""
    text = (ROOT / "actors.xml").read_text()
    for old, new in (
        ('"examples/', f'"{ROOT}/examples/'),
        ('setup-timeout="60s"', 'setup-timeout="10s"'),
        ('teardown-timeout="60s"', 'teardown-timeout="10s"'),
        (
            '<driver name="ssh"',
            '<driver name="ssh" connect-timeout="1.5" attempts="2" retry-pause="0.1"',
        ),
        ('<driver name="directory"', '<driver name="directory" operation-timeout="1"'),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("descriptor") / "actors.xml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def all_clean_and_free(world: World) -> Iterator[None]:
    """EXCLUSIVE and CLEAN after each test: nothing is held, nothing is left, anywhere."""
    yield
    for lease in world.guest.get("/leases")["leases"]:
        if not lease["final"]:  # the test has failed: it is not to fail those after it
            world.end(lease["id"])
    for name, node in world.nodes().items():
        if node["state"] == "quarantined":
            world.site.post(f"/site/nodes/{name}/release", {})
    assert {node["state"] for node in world.nodes().values()} == {"free"}
    assert world.directory("(|(objectClass=posixAccount)(objectClass=ipHost))") == ""
    for name in world.nodes():
        assert world.inside(name, "ls -A /home; grep '^s-' /etc/passwd || true") == ""


def until(holds: Callable[[], bool], seen: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, seen()
        time.sleep(0.05)


def programs(world: World, name: str) -> str:
    """Ids of the handlers' programs that run on a node."""
    return world.inside(name, "pgrep -x -f 'sh -s' || true")


# Ways in which a node breaks ------------------------------------------------------------------


@contextmanager
def dead(world: World, name: str) -> Iterator[None]:
    """Nothing listens there any more."""
    world.box.testbed.kill_node(name)
    try:
        yield
    finally:
        world.box.testbed.start_node(name)


@contextmanager
def mute(world: World, name: str) -> Iterator[None]:
    """Connections are taken, and then nothing is said."""
    world.inside(name, "kill -STOP $(cat /run/sshd.pid)")
    try:
        yield
    finally:
        world.inside(name, "kill -CONT $(cat /run/sshd.pid)")


@contextmanager
def held_up(world: World, name: str) -> Iterator[None]:
    """A login works, and each handler's program then waits for something that does not come."""
    world.inside(name, "mkdir -p -m 700 /var/lib/shirako")
    holder = subprocess.Popen(
        [*world.enter(name), "flock", LOCK, "sh", "-c", "echo held; exec sleep 600"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        world.inside(name, "pkill -x -f 'sleep 600'")
        holder.wait(10)
        holder.stdout.close()


@contextmanager
def stuck(world: World, name: str) -> Iterator[None]:
    """The same, for so long that the site gives the node up."""
    with held_up(world, name):
        yield
    # What waited goes on, until it notices that nobody listens to it any more. What it did until
    # then is the operator's to clear up, which is why the node is in quarantine.
    until(lambda: programs(world, name) == "", lambda: world.inside(name, "ps axf"))
    world.inside(name, MEND)


@contextmanager
def full(world: World, name: str, folder: str) -> Iterator[None]:
    """There is no space left."""
    world.inside(
        name,
        f"mkdir -p -m 700 {folder}; mount -t tmpfs -o size=16k tmpfs {folder}; "
        f"head -c 16k /dev/zero >{folder}/full",
    )
    try:
        yield
    finally:
        world.inside(name, f"umount {folder}")


def full_home(world: World, name: str) -> Any:
    return full(world, name, "/home")


def full_state(world: World, name: str) -> Any:
    return full(world, name, "/var/lib/shirako")


# A set-up that fails --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (mute, "no SSH to root@"),
        (stuck, "set-up did not end within 10 s"),
        (full_home, "cannot be made"),
        (full_state, "cannot be written"),
    ],
)
def test_a_node_that_can_not_be_set_up_is_swapped(
    world: World, breaks: Callable[[World, str], Any], reason: str
) -> None:
    with breaks(world, "node-1"):
        lease = world.lease()
        active = world.guest.until_state(lease, "Active")
        (unit,) = active["held"]
        assert unit["name"] != "node-1"
        assert world.ssh(unit, "id -un").stdout.split() == [unit["user"]]

        bad = world.nodes()["node-1"]
        assert bad["state"] == "quarantined"
        assert reason in bad["quarantined"]
        # the guest is told why it took so long
        assert reason in active["reason"]
        story = world.guest.get(f"/leases/{lease}/story")["story"]
        assert any(reason in line["note"] for line in story)

        ended = world.end(lease)
        assert ended["state"] == "Closed", ended
        assert world.nodes()["node-1"]["state"] == "quarantined", "it is handed out only when told"
    world.site.post("/site/nodes/node-1/release", {})
    lease = world.lease()
    (unit,) = world.guest.until_state(lease, "Active")["held"]
    assert unit["name"] == "node-1", "it was mended"
    assert world.end(lease)["state"] == "Closed"


def test_a_pool_of_bad_nodes_fails_the_lease_with_the_reason(world: World) -> None:
    """ENDS and ATOMIC: every node is bad in a way of its own."""
    with (
        mute(world, "node-1"),
        dead(world, "node-2"),
        full_home(world, "node-3"),
        full_state(world, "node-4"),
    ):
        lease = world.lease()
        failed = world.guest.until(f"/leases/{lease}", lambda a: a["final"])
        assert failed["state"] == "Failed", failed
        assert "could not be set up" in failed["reason"]
        assert "0 units of node.small are free" in failed["reason"]
        reasons = {name: node["quarantined"] for name, node in world.nodes().items()}
        assert all(reasons.values())
        assert len(set(reasons.values())) == NODES, "each for a reason of its own"
        assert world.at_site(lease)["state"] == "Closed"
        assert world.directory("(|(objectClass=posixAccount)(objectClass=ipHost))") == ""
        assert world.guest.get(f"/leases/{lease}/proofs")["receipt"]
        nothing_sold(world)


def nothing_sold(world: World) -> None:
    """The broker has got everything back, against receipts."""

    def free(answer: Any) -> bool:
        (calendar,) = answer["calendar"]
        return bool(calendar["steps"][-2]["booked"] == 0)

    world.broker.until("/broker/calendar", free, seconds=5)


# A teardown that fails ------------------------------------------------------------------------


def test_a_teardown_that_fails_is_told_and_can_be_tried_again(world: World) -> None:
    """CLEAN and ENDS: honest at the site, over for the guest, kept from everybody else."""
    lease = world.lease()
    (unit,) = world.guest.until_state(lease, "Active")["held"]
    name, forgotten = unit["name"], f"/home/{unit['user']}/forgotten"
    world.inside(name, f"mkdir {forgotten}; mount -t tmpfs tmpfs {forgotten}")
    ended = world.end(lease)
    assert ended["state"] == "Closed", ended
    assert f"teardown failed on {name}" in ended["reason"]
    assert world.guest.get(f"/leases/{lease}/proofs")["receipt"]

    (listed,) = world.site.get("/site/leases?state=CloseFailed")["leases"]
    assert listed["id"] == lease
    assert "left: /home/" in listed["assignments"][0]["message"]
    assert "left: /home/" in world.nodes()[name]["quarantined"]
    # even so the guest is out: its keys went first
    assert world.ssh(unit, "true").returncode == 255
    others = world.lease(units=NODES - 1)
    held = world.guest.until_state(others, "Active")["held"]
    assert name not in {one["name"] for one in held}
    assert world.end(others)["state"] == "Closed"

    where = f"/site/leases/{listed['holder']}/{lease}"
    world.inside(name, f"umount {forgotten}")
    world.site.post(f"{where}/retry", {})
    closed = world.site.until(where, lambda a: a["final"])
    assert closed["state"] == "Closed", closed
    assert "home_gone" in closed["assignments"][0]["checks"]
    status, answer = world.site.call("POST", f"{where}/retry", {})
    assert status == 409, answer


# What a handler needs and is not the node ------------------------------------------------------


def test_a_hung_directory_is_waited_for(world: World) -> None:
    """It takes connections and does not answer; no node is blamed for that.

    The nodes' own NSS clients are off: with them each login of a guest's takes longer than this
    impatient site waits for a whole set-up.
    """
    slapd = int((world.box.folder / "testbed" / "directory" / "pid").read_text())
    for name in world.nodes():
        world.inside(name, "kill $(pgrep -x nslcd)")
    os.kill(slapd, signal.SIGSTOP)
    try:
        lease = world.lease()
        until(
            lambda: any("waiting:" in line for line in world.site_story(lease)),
            lambda: world.site_story(lease),
        )
        assert world.guest.get(f"/leases/{lease}")["state"] == "Redeeming"
    finally:
        os.kill(slapd, signal.SIGCONT)
        for name in world.nodes():
            world.inside(name, "nslcd")
    (unit,) = world.guest.until_state(lease, "Active")["held"]
    assert unit["name"] == "node-1", world.site_story(lease)
    assert not any(node["quarantined"] for node in world.nodes().values())
    assert world.directory(f"(uid={unit['user']})")
    assert world.end(lease)["state"] == "Closed"


# A crash in the middle --------------------------------------------------------------------------


@pytest.mark.parametrize("handler", ["setup", "teardown"])
def test_the_authority_dies_while_a_handler_runs(world: World, handler: str) -> None:
    """DURABLE: the dead authority's handler still runs on the node when the new one's comes."""
    if handler == "setup":
        with held_up(world, "node-1"):
            lease = world.lease()
            reborn(world)
        (unit,) = world.guest.until_state(lease, "Active")["held"]
    else:
        lease = world.lease()
        (unit,) = world.guest.until_state(lease, "Active")["held"]
        with held_up(world, "node-1"):
            world.guest.post(f"/leases/{lease}/close", {})
            reborn(world)
    assert unit["name"] == "node-1", world.site_story(lease)
    ended = world.end(lease)
    assert ended["state"] == "Closed", ended
    seen = world.at_site(lease)
    assert [one["unit"] for one in seen["assignments"]] == ["node-1"], "assigned twice"
    assert seen["state"] == "Closed"
    nothing_sold(world)


def reborn(world: World) -> None:
    """Kill the authority while a handler's program waits on node-1; start it; see another wait."""

    def waiting(count: int) -> bool:
        # at the lock: one that has not come so far yet ends when its driver does
        at_lock = world.inside("node-1", "pgrep -x -f 'flock -w [0-9]+ 9' || true")
        return len(at_lock.split()) == count

    def seen() -> str:
        return world.inside("node-1", "ps axf")

    until(lambda: waiting(1), seen)
    world.box.actors.kill("site")
    world.box.actors.start("site")
    until(lambda: waiting(2), seen)
