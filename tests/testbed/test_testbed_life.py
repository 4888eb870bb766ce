"""Starting, stopping, being killed: whatever was made goes away, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shirako.testbed import InUse, MissingComponent, Site, Testbed, TestbedError, components
from shirako.testbed.remains import Link, Mount, Process, Remains, Thing, kill, running

pytestmark = pytest.mark.real

Login = Callable[..., subprocess.CompletedProcess[str]]
Hold = Callable[..., Any]


def made(folder: Path) -> list[Thing]:
    """What the testbed in `folder` says that it made."""
    return list(Remains(folder / "remains.json")._things)


def present(things: list[Thing], kind: type[Thing]) -> list[Thing]:
    """Which of these exist on the machine."""
    alive = running()
    return [
        thing
        for thing in things
        if isinstance(thing, kind)
        and (
            (isinstance(thing, Process) and thing in alive)
            or (isinstance(thing, Link) and Path("/sys/class/net", thing.name).exists())
            or (isinstance(thing, Mount) and os.path.ismount(thing.path))
        )
    ]


def traces(folder: Path) -> list[str]:
    """What on the machine mentions `folder`, whether the testbed knows of it or not."""
    listing = subprocess.run(["ps", "axwwo", "args="], capture_output=True, text=True, check=True)
    found = (Path("/proc/self/mountinfo").read_text() + listing.stdout).splitlines()
    return [line for line in found if str(folder) in line and "holder.py" not in line]


def assert_gone(things: list[Thing], folder: Path) -> None:
    assert [kind for kind in (Process, Link, Mount) if present(things, kind)] == []
    assert traces(folder) == []
    assert not (folder / "remains.json").exists()


@pytest.mark.root
def test_stop_leaves_nothing(tmp_path: Path) -> None:
    named_namespaces = list(Path("/run").glob("netns/sk*"))
    with Testbed(tmp_path, nodes=2) as testbed:
        testbed.start(print)
        things = made(tmp_path)
        assert len(present(things, Process)) == 5  # slapd; for each node its holder and its first
        assert len(present(things, Link)) == 3  # the bridge, two cables
        assert len(present(things, Mount)) == 1
        assert len(traces(tmp_path)) == 4  # the mount; slapd, two holders
    assert_gone(things, tmp_path)
    assert list(Path("/run").glob("netns/sk*")) == named_namespaces


@pytest.mark.root
def test_the_next_start_clears_what_a_killed_one_left(
    tmp_path: Path, hold: Hold, login: Login
) -> None:
    held = hold(tmp_path, 2, "namespaces")
    node = held.site.nodes[0]
    login(held.site, node, "(setsid sleep 3333 >/dev/null 2>&1 &)")
    held.kill()
    left = made(tmp_path)
    assert present(left, Mount)
    assert present(left, Link)
    told: list[str] = []
    with Testbed(tmp_path, nodes=1) as testbed:
        site = testbed.start(told.append)
        assert told[0].startswith("cleared what a killed testbed left here")
        assert present(left, Process) == []
        assert login(site, site.nodes[0], "hostname").stdout == "node-1\n"
        things = made(tmp_path)
        assert len(present(things, Link)) == 2
        # What a descriptor pins stays true.
        assert site.nodes[0].host_key == node.host_key
        assert site.nodes[0].host == node.host
        assert site.directory == held.site.directory
    assert_gone([*left, *things], tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("delay", [0.02, 0.05, 0.08, 0.11, 0.14])
def test_one_killed_while_it_starts_is_cleared(tmp_path: Path, delay: float) -> None:
    holder = Path(__file__).with_name("holder.py")
    command = [sys.executable, str(holder), str(tmp_path), "4", "namespaces"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        deadline = time.monotonic() + 60
        while not (tmp_path / "remains.json").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        popen.kill()
    things = made(tmp_path)
    assert present(things, Link), "killed too early to show anything"
    assert Testbed.clear(tmp_path) == len(things)
    assert_gone(things, tmp_path)


@pytest.mark.root
def test_clear_does_it_without_a_start(tmp_path: Path, hold: Hold) -> None:
    held = hold(tmp_path, 1, "namespaces")
    with pytest.raises(InUse, match="another testbed runs"):
        Testbed.clear(tmp_path)
    things = made(tmp_path)
    assert len(present(things, Process)) == 3
    held.kill()
    assert present(things, Link)
    assert Testbed.clear(tmp_path) == len(things)
    assert_gone(things, tmp_path)
    assert Testbed.clear(tmp_path) == 0
    assert Testbed.clear(tmp_path / "never") == 0


@pytest.mark.root
def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "node-2.log").mkdir()  # node-2's processes cannot be started
    testbed = Testbed(tmp_path, nodes=2)
    with pytest.raises(IsADirectoryError):
        testbed.start(print)
    assert_gone([], tmp_path)
    (tmp_path / "node-2.log").rmdir()
    with testbed:
        assert len(testbed.start(print).nodes) == 2


@pytest.mark.root
def test_a_node_that_cannot_boot_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.sh"
    broken.write_text("echo the disk is full >&2; exit 1")
    monkeypatch.setattr("shirako.testbed.namespaces._SCRIPT", broken)
    with pytest.raises(TestbedError, match=r"node-1 failed.*\n.*the disk is full"):
        Testbed(tmp_path / "bed", nodes=1).start(print)
    assert_gone([], tmp_path / "bed")


@pytest.mark.root
def test_two_testbeds_at_once_do_not_meet(tmp_path: Path, login: Login) -> None:
    first, second = Testbed(tmp_path / "a", nodes=1), Testbed(tmp_path / "b c:d,e%u", nodes=1)
    with first, second:
        sites: dict[Testbed, Site] = {}
        threads = [
            threading.Thread(target=lambda bed=bed: sites.update({bed: bed.start(print)}))
            for bed in (first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        one, two = sites[first], sites[second]
        assert one.nodes[0].host != two.nodes[0].host
        assert one.directory.url != two.directory.url
        first.stop()
        # Also shows that a testbed outlives the thread that started it.
        done = login(two, two.nodes[0], "hostname && getent hosts node-1 && getent passwd root")
        assert done.stdout.startswith("node-1\n"), done.stderr
        assert done.returncode == 0
        things = made(tmp_path / "b c:d,e%u")
        assert len(present(things, Link)) == 2
    assert_gone(things, tmp_path / "b c:d,e%u")


def test_a_folder_is_used_once(tmp_path: Path) -> None:
    with Testbed(tmp_path, nodes=1, mode="processes") as testbed:
        site = testbed.start(print)
        with pytest.raises(InUse, match="another testbed runs"):
            Testbed(tmp_path, nodes=1, mode="processes").start(print)
        with pytest.raises(InUse, match="already started"):
            testbed.start(print)
        testbed.stop()
        testbed.stop()
        assert testbed.start(print) == site


def test_before_the_start_there_is_nothing_to_kill(tmp_path: Path) -> None:
    testbed = Testbed(tmp_path, nodes=1)
    testbed.stop()
    with pytest.raises(TestbedError, match="not started"):
        testbed.kill_node("node-1")
    with pytest.raises(ValueError, match="1 to 1000"):
        Testbed(tmp_path, nodes=0)


def test_all_missing_packages_are_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "_PATH", str(tmp_path))
    with pytest.raises(MissingComponent) as caught:
        Testbed(tmp_path / "bed", nodes=1, mode="processes").start(print)
    assert caught.value.packages == ("openssh-server", "slapd", "util-linux")
    assert "apt-get install --no-install-recommends openssh-server slapd" in str(caught.value)
    assert not (tmp_path / "bed").exists()


def test_a_reused_pid_is_never_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleep:
        right = Process.of(sleep.pid)
        Remains(tmp_path / "list").add(Process(pid=right.pid, started=right.started - 1))
        assert Remains(tmp_path / "list").clear() == 1
        assert sleep.poll() is None
        # Another boot's list: the same pid and start time may be anybody's.
        Remains(tmp_path / "list").add(right)
        text = (tmp_path / "list").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (tmp_path / "list").write_text(text.replace(boot, "another"))
        assert Remains(tmp_path / "list").clear() == 0
        assert sleep.poll() is None
        (tmp_path / "list").write_text(text)
        assert Remains(tmp_path / "list").clear() == 1
        assert sleep.wait() == -9


def test_a_zombie_is_gone() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleep:
        process = Process.of(sleep.pid)
        kill([process])
        with pytest.raises(ProcessLookupError):
            Process.of(sleep.pid)
        kill([process])


def test_what_was_written_down_and_never_made_is_no_trouble(tmp_path: Path) -> None:
    remains = Remains(tmp_path / "list")
    remains.add(Link("sk-none"), Mount(str(tmp_path / "none")), Process(pid=2**22 - 1, started=1))
    assert Remains(tmp_path / "list").clear() == 3
    assert not (tmp_path / "list").exists()
