"""`shirako site reconcile`, `quarantine`, `release`, and `shirako clock`.

Nodes are folders here, and what is on a node are files, so that a test can spoil them as somebody
would by hand. The driver is found as any third party's is.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shirako.api.models import Clock, ClockConfirmation, DueLease
from shirako.client import Client

PLUGIN = '''
from shirako.handlers import DescriptorPath, Difference, HandlerFailed, Options

class Folders:
    """Each node is a folder; one that is not there does not answer."""

    class Options(Options):
        folder: DescriptorPath

    def __init__(self, options):
        self._folder = options.folder

    def _node(self, job):
        node = self._folder / job.unit
        if not node.is_dir():
            raise HandlerFailed("it does not answer")
        return node

    def _differences(self, job):
        def differs(what, fault):
            return Difference(unit=job.unit, where="node", what=what, fault=fault)

        try:
            there = {file.name for file in self._node(job).iterdir()}
        except HandlerFailed as error:
            return [differs(str(error), "changed")]
        wanted = {f"account-{job.lease}"} if job.lease else set()
        return [
            *(differs(what, "left over") for what in sorted(there - wanted)),
            *(differs(what, "missing") for what in sorted(wanted - there)),
        ]

    async def setup(self, job, log):
        (self._node(job) / f"account-{job.lease}").touch()
        return {"host": job.unit}

    async def teardown(self, job, log):
        (self._node(job) / f"account-{job.lease}").unlink(missing_ok=True)
        return ("account_gone",)

    async def probe(self, job, log):
        for one in self._differences(job):
            raise HandlerFailed(f"{one.what} is {one.fault}")

    async def survey(self, jobs, log):
        return [one for job in jobs for one in self._differences(job)]

    async def mend(self, differences, job, log):
        for one in differences:
            file = self._node(job) / one.what
            file.touch() if one.fault == "missing" else file.unlink()

    async def close(self):
        pass
'''

DESCRIPTOR = """<actors xmlns="urn:shirako:actors:1" state="state">
  <authority name="site" url="http://127.0.0.1:{site}" key="keys/site.jwk">
    <pool type="node" assignment="first-fit" probe="off">
      <driver name="t-folders" folder="nodes"/>
      <units prefix="n" count="3"/>
    </pool>
    <pool type="watched" assignment="first-fit" probe="1s">
      <driver name="t-folders" folder="nodes"/>
      <units prefix="w" count="3"/>
    </pool>
    <delegation name="share" to="broker" type="node" units="3"/>
    <delegation name="watched" to="broker" type="watched" units="3"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:{broker}" key="keys/broker.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="http://127.0.0.1:{guest}" key="keys/guest.jwk"
                   demand="static"/>
  <edge from="site" to="broker"/>
  <edge from="broker" to="guest"/>
</actors>
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A distribution on the path, as pip would install it."""
    place = tmp_path_factory.mktemp("plugin")
    (place / "t_folders_plugin.py").write_text(PLUGIN)
    info = place / "t_folders-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: t-folders\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[shirako.drivers]\nt-folders = t_folders_plugin:Folders\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        yield place


@pytest.fixture(scope="module")
def cli(plugin: Path, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The command, with a site whose nodes are folders."""
    folder = tmp_path_factory.mktemp("upkeep")
    for number in (1, 2, 3):
        for prefix in "nw":
            (folder / "nodes" / f"{prefix}{number}").mkdir(parents=True)
    with serve(folder, DESCRIPTOR, PYTHONPATH=str(plugin)) as cli:
        yield cli


@pytest.fixture
def ops(cli: Any) -> dict[str, str]:
    found: dict[str, str] = cli.at("site", "ops")
    return found


@pytest.fixture
def ann(cli: Any) -> Iterator[dict[str, str]]:
    """A guest, whose leases are closed again; all nodes are clean and free after the test."""
    found = cli.at("guest", "ann")
    yield found
    for lease in cli.json("lease", "list", **found):
        if lease["state"] not in ("Closed", "Failed"):
            cli("lease", "close", lease["id"], **found)
            cli("lease", "watch", lease["id"], **found)
    ops = cli.at("site", "ops")
    for node in cli.json("site", "nodes", **ops):
        (cli.folder / "nodes" / node["name"]).mkdir(exist_ok=True)
        cli("site", "release", node["name"], **ops)
    cli.json("site", "reconcile", **ops)


def lease_of(cli: Any, ann: dict[str, str], kind: str = "node", units: int = 1) -> Any:
    ask = ("lease", "request", "--slice", "blue", "--type", kind, "--for", "1h", "--wait")
    return cli.json(*ask, "--units", str(units), **ann)


def on(cli: Any, node: str) -> list[str]:
    return sorted(file.name for file in (cli.folder / "nodes" / node).iterdir())


def until(look: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 20
    while not holds(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


# Reconcile ------------------------------------------------------------------------------------


def test_what_was_done_by_hand_is_shown_and_then_undone(cli: Any, ann: Any, ops: Any) -> None:
    assert cli("site", "reconcile", "--dry-run", **ops).endswith("nothing differs\n")
    lease = lease_of(cli, ann)["id"]
    (cli.folder / "nodes" / "n1" / f"account-{lease}").unlink()
    (cli.folder / "nodes" / "n2" / "account-old").touch()

    told = cli("site", "reconcile", "--dry-run", status=1, **ops)
    assert re.search(rf"^n1 +node +missing +account-{lease} +{lease} +shown$", told, re.M)
    assert re.search(r"^n2 +node +left over +account-old +shown$", told, re.M)
    assert on(cli, "n2") == ["account-old"]

    told = cli.json("site", "reconcile", **ops)
    assert (told["dry_run"], told["counts"], told["units"]) == (False, {"mended": 2}, 6)
    assert [one["done"] for one in told["differences"]] == ["mended", "mended"]
    assert on(cli, "n1") == [f"account-{lease}"]
    assert on(cli, "n2") == []
    told = cli.json("site", "reconcile", "--dry-run", **ops)
    assert (told["differences"], told["busy"], told["unavailable"]) == ([], [], [])


def test_what_can_not_be_mended_is_left_and_told(cli: Any, ann: Any, ops: Any) -> None:
    lease = lease_of(cli, ann, units=2)["id"]
    shutil.rmtree(cli.folder / "nodes" / "n1")
    told = cli("site", "reconcile", "--yes", status=1, **ops)
    assert re.search(r"^n1 +node +changed +it does not answer .* left +it does not", told, re.M)
    held = until(
        lambda: cli.json("lease", "show", lease, **ann)["held"],
        lambda units: "n1" not in {unit["name"] for unit in units} and len(units) == 2,
    )
    assert {unit["name"] for unit in held} == {"n2", "n3"}
    again = cli.json("site", "reconcile", "--dry-run", status=1, **ops)
    assert [one["unit"] for one in again["differences"]] == ["n1"]


def on_a_terminal(cli: Any, answer: str, *words: str, **environment: str) -> tuple[int, str]:
    """What somebody sees who types the command, and then `answer`."""
    mine, its = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("shirako")), *words],
        cwd=cli.folder,
        env={**os.environ, **cli.environment, **environment},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    os.write(mine, f"{answer}\n".encode())
    seen = b""
    try:
        while part := os.read(mine, 65536):
            seen += part
    except OSError:
        pass  # a terminal whose last user is gone
    os.close(mine)
    return process.wait(30), seen.decode()


def test_on_a_terminal_it_is_shown_and_asked_first(cli: Any, ann: Any, ops: Any) -> None:
    (cli.folder / "nodes" / "n2" / "account-old").touch()
    status, seen = on_a_terminal(cli, "n", "site", "reconcile", **ops)
    assert status == 1
    assert "looking at nodes and directory ..." in seen
    assert re.search(r"n2 +node +left over +account-old +shown", seen)
    assert "Mend this?" in seen
    assert on(cli, "n2") == ["account-old"]
    status, seen = on_a_terminal(cli, "y", "site", "reconcile", **ops)
    assert status == 0
    assert re.search(r"n2 +node +left over +account-old +mended", seen)
    assert on(cli, "n2") == []
    status, seen = on_a_terminal(cli, "y", "site", "reconcile", **ops)
    assert (status, "Mend this?" in seen) == (0, False)


# Quarantine and release -------------------------------------------------------------------------


def test_a_node_is_put_out_of_use_and_back(cli: Any, ann: Any, ops: Any) -> None:
    quarantine = ("site", "quarantine", "n1", "--reason")
    assert cli(*quarantine, "fan is broken", **ops) == "n1 quarantined: fan is broken\n"
    assert cli(*quarantine, "again", **ops) == "n1 quarantined: fan is broken\n"
    assert re.search(
        r"^n1 +node +quarantined +n?.*fan is broken$", cli("site", "nodes", **ops), re.M
    )
    assert "fan" in cli.json("site", "nodes", "--state", "quarantined", **ops)[0]["quarantined"]
    (cli.folder / "nodes" / "n1" / "account-old").touch()
    assert cli.json("site", "release", "n1", **ops)["state"] == "free"
    assert on(cli, "n1") == [], "it was handed out again with something left on it"
    assert cli("site", "release", "n1", **ops) == "n1 free\n"
    assert "no node zz" in cli("site", "quarantine", "zz", "--reason", "x", status=1, **ops)
    assert "no such unit" in cli("site", "release", "zz", status=1, **ops)
    assert "Missing option '--reason'" in cli("site", "quarantine", "n1", status=2, **ops)


def test_a_node_that_is_not_fit_is_not_released(cli: Any, ann: Any, ops: Any) -> None:
    cli("site", "quarantine", "n1", "--reason", "fan", **ops)
    shutil.rmtree(cli.folder / "nodes" / "n1")
    told = cli("site", "release", "n1", status=1, **ops)
    assert "n1 stays in quarantine: it does not answer" in told


def test_a_node_at_work_is_replaced_when_that_is_said(cli: Any, ann: Any, ops: Any) -> None:
    lease = lease_of(cli, ann, units=3)["id"]
    words = ("site", "quarantine", "n2", "--reason", "fan")
    told = cli(*words, status=1, **ops)
    assert f"n2 works for the lease {lease} of guest; no node is free to replace it" in told
    assert "--yes" in told
    status, seen = on_a_terminal(cli, "n", *words, **ops)
    assert (status, "the lease will be degraded. Go on?" in seen) == (1, True)
    assert len(cli.json("lease", "show", lease, **ann)["held"]) == 3

    watching = cli.start("lease", "watch", lease, **ann)
    assert watching.stderr is not None
    while not watching.stderr.readline().endswith("Active\n"):
        assert watching.poll() is None
    assert cli.json(*words, "--yes", **ops)["state"] == "quarantined"
    shown = until(lambda: cli.json("lease", "show", lease, **ann), lambda one: one["degraded"])
    assert (shown["state"], len(shown["held"])) == ("Active", 2)
    assert re.search(r"^degraded +n2 was lost: fan$", cli("lease", "show", lease, **ann), re.M)
    assert re.search(rf"^{lease} .* Active, degraded ", cli("lease", "list", **ann), re.M)
    assert re.search(
        rf"^{lease} .* degraded: n2 was lost: fan$", cli("site", "leases", **ops), re.M
    )

    until(
        lambda: cli.json("site", "leases", "--state", "Active", **ops)[0]["assignments"],
        lambda units: "closing" not in {unit["phase"] for unit in units},
    )
    cli("site", "release", "n2", **ops)
    until(lambda: cli.json("lease", "show", lease, **ann), lambda one: not one["degraded"])
    cli("lease", "close", lease, **ann)
    _, error = watching.communicate(timeout=30)
    lines = error.splitlines()
    assert "degraded: n2 was lost: fan" in lines
    assert "no longer degraded: all units work again" in lines


# Probes -----------------------------------------------------------------------------------------


def test_a_node_that_dies_is_noticed_and_replaced(cli: Any, ann: Any, ops: Any) -> None:
    lease = lease_of(cli, ann, "watched", units=2)["id"]
    shutil.rmtree(cli.folder / "nodes" / "w1")
    held = until(
        lambda: cli.json("lease", "show", lease, **ann)["held"],
        lambda units: {unit["name"] for unit in units} == {"w2", "w3"},
    )
    assert len(held) == 2
    (node,) = cli.json("site", "nodes", "--state", "quarantined", **ops)
    assert (node["name"], node["probe"]["verdict"]) == ("w1", "unfit")
    told = cli("site", "nodes", **ops)
    assert re.search(
        r"^w1 +watched +quarantined .*unfit \d\d:\d\d:\d\dZ +.*does not answer", told, re.M
    )
    assert re.search(rf"^w2 +watched +leased +{lease} .*fit \d\d:\d\d:\d\dZ$", told, re.M)
    assert re.search(r"^n1 +node +free$", told, re.M)


# The clock ----------------------------------------------------------------------------------------


def test_the_clock_of_each_actor_is_shown(cli: Any) -> None:
    for actor, token in (("site", "ops"), ("broker", "sales"), ("guest", "ann")):
        who = cli.at(actor, token)
        told = cli("clock", "show", **who)
        assert re.search(rf"^actor +\S+ {actor}$", told, re.M)
        assert re.search(r"^jump +none$", told, re.M)
        assert set(cli.json("clock", "show", **who)) == {"tick", "time", "jump_seconds"}


def test_without_a_jump_there_is_nothing_to_confirm(cli: Any, ops: Any) -> None:
    told = cli.json("clock", "confirm", **ops)
    assert (told["jump_seconds"], told["due"]) == (0, [])
    assert "no jump to confirm" in cli.start("clock", "confirm", **ops).communicate(timeout=60)[1]
    assert "your token is for a guest" in cli(
        "clock",
        "confirm",
        status=1,
        **{**ops, "SHIRAKO_TOKEN": cli.at("guest", "ann")["SHIRAKO_TOKEN"]},
    )
    problem = cli.json("clock", "confirm", status=1, **cli.at("guest", "ann"))
    assert json.dumps(problem["detail"]).count("broker-admin, site-admin") == 1


def test_a_jump_that_ends_leases_is_followed_only_when_that_is_said(
    cli: Any, ops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine's clock can not be set here: what the actor answers is made up."""
    now = datetime(2026, 12, 1, 10, tzinfo=UTC)
    asked: list[bool] = []

    async def confirm(_client: Client, *, dry_run: bool = False) -> ClockConfirmation:
        asked.append(dry_run)
        due = DueLease(holder="kid", id="r1", slice="blue", units=2, end=now)
        jump = 7200 if dry_run else 0
        clock = Clock(tick=int(now.timestamp()), time=now, jump_seconds=jump)
        return ClockConfirmation(
            dry_run=dry_run, clock=clock, jump_seconds=7200, due=(due,), more=4
        )

    monkeypatch.setattr(Client, "confirm_clock", confirm)
    told = cli("clock", "confirm", status=1, **ops)
    assert "5 leases would end at once" in told
    assert "--yes" in told
    assert asked == [True]
    told = cli("clock", "confirm", "--dry-run", **ops)
    assert re.search(r"^jump +\+7200 s, not followed$", told, re.M)
    assert re.search(r"^r1 +blue +2 +2026-12-01 10:00:00Z", told, re.M)
    assert asked == [True, True]
    assert "none" in cli("clock", "confirm", "--yes", **ops)
    assert asked == [True, True, False]
