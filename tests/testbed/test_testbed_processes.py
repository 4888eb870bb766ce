"""Nodes without root: sshds of one user, on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from shirako.testbed import Testbed, TestbedError, testbed
from shirako.testbed.sshd import answers, key_pair

pytestmark = pytest.mark.real

Login = Callable[..., subprocess.CompletedProcess[str]]
Ldap = Callable[..., subprocess.CompletedProcess[str]]
Hold = Callable[..., Any]


def as_somebody(folder: Path) -> tuple[str, ...]:
    """Words before a command that runs it as an ordinary user, who exists for that command alone.

    The one capability is for reading the interpreter, wherever it is; the holder gives it up.
    """
    somebody = "somebody:x:54321:54321::/:/bin/sh\n"
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + somebody)
    script = 'mount --bind "$0" /etc/passwd && exec "$@"'
    reading = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    who = ("--reuid", "54321", "--regid", "54321", "--clear-groups")
    return (
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", script),
        *(str(folder / "passwd"), "setpriv", *who, *reading),
    )


@pytest.fixture
def somebodys() -> Iterator[Path]:
    """A folder that an ordinary user can reach and write to, unlike those that pytest makes."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def sleeps(seconds: int) -> bool:
    """Whether a `sleep` of so many seconds runs."""
    return subprocess.run(["pgrep", "-fx", f"sleep {seconds}"], capture_output=True).returncode == 0


def left_behind(seconds: int) -> str:
    """A script that starts a `sleep` of so many seconds, and waits until it runs."""
    running = f"pgrep -fx 'sleep {seconds}'"
    return f"setsid sleep {seconds} >/dev/null 2>&1 & until {running}; do sleep 0.05; done"


@pytest.mark.root
def test_an_ordinary_user_gets_nodes_without_accounts(
    somebodys: Path, tmp_path: Path, hold: Hold, login: Login, ldap: Ldap
) -> None:
    held = hold(somebodys, 2, "auto", *as_somebody(tmp_path))
    site = held.site
    assert site.mode == "processes"
    assert "sshd processes of user somebody on 127.0.0.1" in held.told[0]
    assert "need root" in held.told[1]
    one, other = site.nodes
    assert (one.accounts, one.root, one.admin_user) == (False, None, "somebody")
    assert one.host_key != other.host_key
    for node in site.nodes:
        assert login(site, node, "id -un").stdout == "somebody\n"
    status = login(site, one, "grep -E 'Cap(Eff|Amb)' /proc/self/status").stdout.split()
    assert status[1::2] == ["0" * 16] * 2, "a node has a capability of the test's"
    key_pair(tmp_path / "guest")
    assert login(site, one, "true", key=tmp_path / "guest").returncode == 255
    assert one.guest_keys is not None
    one.guest_keys.write_text(key_pair(tmp_path / "guest") + "\n")
    assert login(site, one, "id -un", key=tmp_path / "guest").stdout == "somebody\n"
    assert login(site, other, "true", key=tmp_path / "guest").returncode == 255
    base = site.directory.base_dn
    assert f"dn: {base}" in ldap(site, "ldapsearch", "-b", base, "-LLL").stdout
    held.do("stop")
    assert not any(answers(node.host, node.port) for node in site.nodes)


def test_a_killed_node_loses_its_logins(tmp_path: Path, login: Login) -> None:
    with Testbed(tmp_path, nodes=2, mode="processes") as bed:
        site = bed.start(print)
        one, other = site.nodes
        login(site, one, left_behind(7771))
        login(site, other, left_behind(7772))
        assert sleeps(7771)
        bed.kill_node(one.name)
        assert not answers(one.host, one.port)
        assert (sleeps(7771), sleeps(7772)) == (False, True)
        bed.start_node(one.name)
        bed.start_node(one.name)
        assert login(site, one, "echo back").stdout == "back\n"
    assert not sleeps(7772)


def test_the_next_start_clears_logins_that_outlived_a_killed_one(
    tmp_path: Path, hold: Hold, login: Login
) -> None:
    held = hold(tmp_path, 1, "processes")
    node = held.site.nodes[0]
    login(held.site, node, left_behind(7773))
    held.kill()
    assert sleeps(7773)
    with Testbed(tmp_path, nodes=1, mode="processes") as bed:
        again = bed.start(print)
        assert not sleeps(7773)
        assert again.nodes[0].host_key == node.host_key
        assert login(again, again.nodes[0], "echo here").stdout == "here\n"


def test_a_directory_outage_without_root(tmp_path: Path, ldap: Ldap) -> None:
    with Testbed(tmp_path, nodes=1, mode="processes") as bed:
        site = bed.start(print)
        base = site.directory.base_dn
        entry = f"dn: ou=kept,{base}\nobjectClass: organizationalUnit\nou: kept\n"
        assert ldap(site, "ldapadd", ldif=entry).returncode == 0
        bed.stop_directory()
        assert ldap(site, "ldapsearch", "-b", base).returncode == 255
        bed.start_directory()
        assert "ou=kept" in ldap(site, "ldapsearch", "-b", base).stdout


def test_namespaces_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed, "can_unshare", lambda: False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(TestbedError, match="does not let root make namespaces"):
        Testbed(tmp_path, nodes=1, mode="namespaces").start(print)
