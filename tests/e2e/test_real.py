"""A whole lease on real sshd nodes with a real slapd, over three processes; checked with `ssh` as
the guest, `ldapsearch`, and look-ups inside a node, not with our own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realworld import NODES, World
from shirako.descriptor import read_descriptor

pytestmark = [pytest.mark.real, pytest.mark.root]


def test_a_whole_lease(world: World) -> None:
    lease = world.lease(units=2)
    active = world.guest.until_state(lease, "Active")
    assert len(active["held"]) == 2
    for unit in active["held"]:
        login = world.ssh(
            unit, "id -un; hostname; cat work/lease; nohup sleep 600 >/dev/null 2>&1 & "
        )
        assert login.stdout.split() == [unit["user"], unit["properties"]["host.name"], lease], login
    first = active["held"][0]
    user = first["user"]

    # where is what: in the directory, and to every program on the node that asks NSS
    assert world.directory(f"(&(objectClass=posixAccount)(uid={user}))")
    hosts = world.directory("(objectClass=ipHost)")
    assert all(f"ipHostNumber: {unit['host']}" in hosts for unit in active["held"])
    netgroup = first["properties"]["directory.netgroup"]
    looked_up = world.as_admin(
        first["name"],
        f"getent passwd {user} && getent netgroup {netgroup} && getent hosts "
        f"{active['held'][1]['name']}",
    )
    assert looked_up.returncode == 0, looked_up
    assert active["held"][1]["host"] in looked_up.stdout

    # the join script's own words are in the lease's story
    story = world.guest.get(f"/leases/{lease}/story")["story"]
    assert any("joined slice blue" in line["note"] for line in story)

    ended = world.end(lease)
    assert ended["state"] == "Closed", ended
    for unit in active["held"]:
        assert world.ssh(unit, "true").returncode == 255
        check = world.as_admin(unit["name"], f"id {user}; pgrep -x -f -c 'sleep 600'; ls -A /home")
        assert "no such user" in check.stderr, check
        assert check.stdout.split() == ["0"], "processes or a home are left"
    assert world.directory(f"(uid={user})") == ""
    assert world.directory("(objectClass=ipHost)") == ""


def test_a_dead_node_is_swapped_and_quarantined(world: World) -> None:
    world.box.testbed.kill_node("node-1")
    try:
        lease = world.lease(units=NODES - 1)
        active = world.guest.until_state(lease, "Active")
        assert "node-1" not in {unit["name"] for unit in active["held"]}
        nodes = {node["name"]: node for node in world.site.get("/site/nodes")["nodes"]}
        assert nodes["node-1"]["state"] == "quarantined"
        assert nodes["node-1"]["quarantined"]
        assert world.end(lease)["state"] == "Closed"
    finally:
        world.box.testbed.start_node("node-1")
    status, answer = world.site.call("POST", "/site/nodes/node-1/release", {})
    assert status == 200, answer
    lease = world.lease(units=NODES)
    assert len(world.guest.until_state(lease, "Active")["held"]) == NODES
    assert world.end(lease)["state"] == "Closed"


def test_directory_down_is_waited_for(world: World) -> None:
    world.box.testbed.stop_directory()
    try:
        lease = world.lease()

        def waits(answer: Any) -> bool:
            return any("waiting:" in line["note"] for line in answer["story"])

        holder = world.site.until(f"/site/leases?id={lease}", lambda a: bool(a["leases"]))
        where = f"/site/leases/{holder['leases'][0]['holder']}/{lease}/story"
        world.site.until(where, waits)
        assert world.guest.get(f"/leases/{lease}")["state"] == "Redeeming"
    finally:
        world.box.testbed.start_directory()
    world.guest.until_state(lease, "Active")
    assert world.end(lease)["state"] == "Closed"


@pytest.mark.parametrize("actor", ["site", "guest"])
@pytest.mark.parametrize("phase", ["Redeeming", "Joining", "CloseWait"])
def test_killed_during_real_handlers(world: World, actor: str, phase: str) -> None:
    lease = world.lease(units=2)
    if phase == "CloseWait":
        world.guest.until_state(lease, "Active")
        world.guest.post(f"/leases/{lease}/close", {})
    world.guest.until_state(lease, phase, "Active" if phase == "Joining" else phase)
    world.box.actors.kill(actor)
    world.box.actors.start(actor)
    if phase != "CloseWait":
        active = world.guest.until_state(lease, "Active")
        assert world.ssh(active["held"][0], "true").returncode == 0
    ended = world.end(lease)
    assert ended["state"] == "Closed", ended
    nodes = world.site.get("/site/nodes")["nodes"]
    assert {node["state"] for node in nodes} == {"free"}
    assert world.directory("(objectClass=posixAccount)") == ""


def test_wrong_host_key_is_refused(world: World, tmp_path: Path) -> None:
    """A node that shows another key than the one pinned is not talked to."""
    text = world.box.descriptor.path.read_text()
    keys = [node.host_key for node in world.box.site.nodes]
    swapped = text.replace(keys[0], "OTHER").replace(keys[1], keys[0]).replace("OTHER", keys[1])
    world.box.descriptor.path.write_text(swapped)
    read_descriptor(world.box.descriptor.path)
    try:
        world.box.actors.stop("site")
        world.box.actors.start("site")
        lease = world.lease(units=2)
        active = world.guest.until_state(lease, "Active")
        assert {unit["name"] for unit in active["held"]} == {"node-3", "node-4"}
        world.end(lease)
        nodes = {node["name"]: node for node in world.site.get("/site/nodes")["nodes"]}
        assert "host key" in nodes["node-1"]["quarantined"]
    finally:
        world.box.descriptor.path.write_text(text)
        world.box.actors.stop("site")
        world.box.actors.start("site")
        for name in ("node-1", "node-2"):
            world.site.call("POST", f"/site/nodes/{name}/release", {})
