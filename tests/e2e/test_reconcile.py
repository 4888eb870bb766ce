"""A site that is kept in order with the command, on real nodes with a real slapd. What differs is
made by hand, as root on the nodes and with LDAP tools, and looked for in the same way."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from realworld import World
from shirako.api import Tokens
from shirako.cli import main

pytestmark = [pytest.mark.real, pytest.mark.root]

ROOT = Path(__file__).parent.parent.parent
GHOST = """
useradd --create-home --uid 20007 --comment 'Shirako guest of lease old' s-ghost
echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA0YhSZf0B1mFl1k2fRZ6rRkW2cX0cX0cX0cX0cX0cX0' \
    > /home/s-ghost/key
setpriv --reuid s-ghost --regid s-ghost --clear-groups setsid sleep 777 >/dev/null 2>&1 </dev/null &
"""
"""What a site leaves on a node that dies without its ledger."""
WATCHED = """
    <pool type="node.watched" assignment="first-fit" setup-timeout="20s" teardown-timeout="20s"
          probe="1s">
      {drivers}
      <units prefix="watched-" count="2"/>
    </pool>
    <delegation name="watched" to="broker" type="node.watched" units="2"/>
"""


@pytest.fixture(scope="module")
def site_descriptor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's with two pools: one that only the command looks at, and one with probes."""
    text = (ROOT / "actors.xml").read_text()
    for old, new in (
        ('"examples/', f'"{ROOT}/examples/'),
        ('count="4"', 'count="2"'),
        ('type="node.small" units="4"', 'type="node.small" units="2"'),
        ('<pool type="node.small"', '<pool type="node.small" probe="off"'),
        (
            '<driver name="ssh"',
            '<driver name="ssh" connect-timeout="1.5" attempts="2" retry-pause="0.1"',
        ),
        ('<driver name="directory"', '<driver name="directory" operation-timeout="2"'),
    ):
        assert old in text
        text = text.replace(old, new)
    start = text.index("<driver ")
    drivers = text[start : text.index("<units ", start)]
    text = text.replace("</pool>", f"</pool>{WATCHED.format(drivers=drivers)}", 1)
    path = tmp_path_factory.mktemp("descriptor") / "actors.xml"
    path.write_text(text)
    return path


class Command:
    """`shirako`, as an admin of the site runs it."""

    def __init__(self, world: World) -> None:
        secret = Tokens(world.box.descriptor.state).create("ops", "site-admin")
        url = world.box.actors.url("site")
        self._environment = {"SHIRAKO_URL": url, "SHIRAKO_TOKEN": secret}

    def __call__(self, *words: str, status: int | None = 0) -> str:
        """Standard output; `status` None: whatever it is."""
        done = CliRunner().invoke(main, words, env=self._environment)
        assert status in (None, done.exit_code), (words, done.exit_code, done.output)
        return done.stdout

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status))


@pytest.fixture(scope="module")
def shirako(world: World) -> Command:
    return Command(world)


@pytest.fixture(autouse=True)
def all_clean_and_free(
    world: World, shirako: Command, request: pytest.FixtureRequest
) -> Iterator[None]:
    """EXCLUSIVE and CLEAN after each test: nothing is held, nothing is left, anywhere."""
    before = request.session.testsfailed
    yield
    failed = request.session.testsfailed > before
    for lease in world.guest.get("/leases")["leases"]:
        if not lease["final"]:
            world.end(lease["id"])
    for name, node in world.nodes().items():
        if node["state"] == "quarantined":
            shirako("site", "release", name)
    if failed:  # it is not to fail those after it
        shirako("site", "reconcile", status=None)
    assert {node["state"] for node in world.nodes().values()} == {"free"}
    assert world.directory("(|(objectClass=posixAccount)(objectClass=ipHost))") == ""
    for name in world.nodes():
        assert world.inside(name, "ls -A /home; grep '^s-' /etc/passwd || true") == ""
        assert world.inside(name, "pgrep -x -f 'sleep 777' || true") == ""


def until(look: Callable[[], Any], holds: Callable[[Any], bool], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not holds(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen


def ldap(world: World, tool: str, *arguments: str, text: str = "") -> None:
    """Change the directory by hand."""
    where = world.box.site.directory
    bind = ("-x", "-H", where.url, "-D", where.bind_dn, "-y", str(where.password_file))
    subprocess.run([tool, *bind, *arguments], input=text, text=True, check=True, timeout=20)


def of_unit(told: Any, unit: str) -> set[tuple[str, str]]:
    """Where something is the matter with a unit, and what kind of thing."""
    return {(one["where"], one["fault"]) for one in told["differences"] if one["unit"] == unit}


def spoil(world: World, held: Any) -> None:
    """The lease's unit loses its guest's key and its entry; the other node gets a ghost."""
    user = held["user"]
    world.inside(held["name"], f"find /home/{user}/.ssh -name 'authorized_keys*' -delete")
    world.inside(other(held), GHOST)
    base = world.box.site.directory.base_dn
    host = f"(&(objectClass=ipHost)(cn={held['name']}))"
    (dn,) = [
        line.removeprefix("dn: ")
        for line in world.directory(host).replace("\n ", "").splitlines()
        if line.startswith("dn: ")
    ]
    ldap(world, "ldapdelete", dn)
    entry = f"ou=old,{base}"
    lines = [
        *(f"dn: {entry}", "objectClass: organizationalUnit", "ou: old"),
        *("description: Shirako slice", ""),
        *(f"dn: ou=hosts,{entry}", "objectClass: organizationalUnit", "ou: hosts", ""),
        *(f"dn: cn={other(held)},ou=hosts,{entry}", "objectClass: device"),
        *("objectClass: ipHost", f"cn: {other(held)}"),
        f"ipHostNumber: {world.node(other(held)).host}",
        *("description: lease old", ""),
    ]
    ldap(world, "ldapadd", text="\n".join(lines))


def other(held: Any) -> str:
    return {"node-1": "node-2", "node-2": "node-1"}[held["name"]]


# By hand --------------------------------------------------------------------------------------


def test_what_was_done_by_hand_is_shown_mended_and_gone(world: World, shirako: Command) -> None:
    assert shirako.json("site", "reconcile", "--dry-run")["differences"] == []
    lease = world.lease()
    (held,) = world.guest.until_state(lease, "Active")["held"]
    assert shirako.json("site", "reconcile", "--dry-run")["differences"] == []
    spoil(world, held)
    assert world.ssh(held, "true").returncode == 255

    shown = shirako.json("site", "reconcile", "--dry-run", status=1)
    assert of_unit(shown, held["name"]) >= {("node", "missing"), ("directory", "missing")}
    assert of_unit(shown, other(held)) >= {("node", "left over"), ("directory", "left over")}
    assert {one["done"] for one in shown["differences"]} == {"shown"}
    what = " ".join(one["what"] for one in shown["differences"])
    assert "s-ghost" in what
    assert "ou=old" in what
    assert world.inside(other(held), "id -un s-ghost") == "s-ghost\n", "a dry run changed something"

    told = shirako("site", "reconcile")
    assert "mended" in told
    assert "left " not in told.replace("left over", "")
    assert world.ssh(held, "id -un").stdout == f"{held['user']}\n"
    assert world.inside(other(held), "grep '^s-' /etc/passwd || true; ls -A /home") == ""
    assert world.inside(other(held), "pgrep -x -f 'sleep 777' || true") == ""
    assert f"cn: {held['name']}" in world.directory("(objectClass=ipHost)")
    assert world.directory("(ou=old)") == ""
    after = shirako.json("site", "reconcile", "--dry-run")
    assert (after["differences"], after["unavailable"]) == ([], [])
    assert after["units"] == 4


def test_while_the_directory_is_down_the_nodes_are_mended(world: World, shirako: Command) -> None:
    world.inside("node-2", GHOST)
    world.box.testbed.stop_directory()
    try:
        told = shirako.json("site", "reconcile", status=1)
        assert {one["driver"] for one in told["unavailable"]} == {"directory"}
        assert {one["done"] for one in told["differences"]} == {"mended"}
        assert world.inside("node-2", "grep '^s-' /etc/passwd || true") == ""
        assert not any(node["quarantined"] for node in world.nodes().values())
    finally:
        world.box.testbed.start_directory()
    assert shirako.json("site", "reconcile")["unavailable"] == []


def test_a_quarantined_node_is_cleared_before_it_is_released(
    world: World, shirako: Command
) -> None:
    shirako("site", "quarantine", "node-2", "--reason", "a new disk")
    world.inside("node-2", GHOST)
    world.box.testbed.kill_node("node-2")
    assert shirako.json("site", "release", "node-2", status=1)["status"] == 409
    world.box.testbed.start_node("node-2")
    world.inside("node-2", "id -un s-ghost")
    assert shirako.json("site", "release", "node-2")["state"] == "free"
    assert world.inside("node-2", "grep '^s-' /etc/passwd || true") == ""


# Probes ---------------------------------------------------------------------------------------


def test_a_killed_node_of_a_lease_is_replaced_and_its_guest_sees_that(
    world: World, shirako: Command
) -> None:
    lease = world.lease(type="node.watched")
    (first,) = world.guest.until_state(lease, "Active")["held"]
    world.box.testbed.kill_node(first["name"])
    try:
        shown = until(
            lambda: world.guest.get(f"/leases/{lease}"),
            lambda one: len(one["held"]) == 1 and one["held"][0]["name"] != first["name"],
        )
        assert (shown["state"], shown["degraded"]) == ("Active", "")
        assert world.ssh(shown["held"][0], "id -un").returncode == 0
        (node,) = shirako.json("site", "nodes", "--state", "quarantined")
        assert (node["name"], node["probe"]["verdict"]) == (first["name"], "unfit")
        assert node["quarantined"]
        story = world.guest.get(f"/leases/{lease}/story")["story"]
        assert any(first["name"] in line["note"] for line in story)
    finally:
        world.box.testbed.start_node(first["name"])


def test_without_a_free_node_the_lease_is_degraded_and_heals(
    world: World, shirako: Command
) -> None:
    lease = world.lease(type="node.watched", units=2)
    held = world.guest.until_state(lease, "Active")["held"]
    lost = held[1]["name"]
    world.box.testbed.kill_node(lost)
    try:
        shown = until(lambda: world.guest.get(f"/leases/{lease}"), lambda one: one["degraded"])
        assert (shown["state"], shown["units"]) == ("Active", 2)
        assert f"{lost} was lost" in shown["degraded"]
        assert [unit["name"] for unit in shown["held"]] == [held[0]["name"]]
        assert "degraded" in shirako("site", "leases", "--state", "Active")
    finally:
        world.box.testbed.start_node(lost)
    until(
        lambda: world.at_site(lease)["assignments"],
        lambda units: "closing" not in {unit["phase"] for unit in units},
    )
    shirako("site", "release", lost)
    healed = until(
        lambda: world.guest.get(f"/leases/{lease}"),
        lambda one: not one["degraded"] and len(one["held"]) == 2,
    )
    for unit in healed["held"]:
        assert world.ssh(unit, "id -un").returncode == 0
