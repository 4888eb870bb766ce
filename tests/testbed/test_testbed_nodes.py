"""Nodes in namespaces: each is a machine of its own, and shows nothing of the one it runs on."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shirako.testbed import Site, Testbed, TestbedError
from shirako.testbed.sshd import answers, key_pair

pytestmark = [pytest.mark.real, pytest.mark.root]

Up = tuple[Testbed, Site]
Login = Callable[..., subprocess.CompletedProcess[str]]
Ldap = Callable[..., subprocess.CompletedProcess[str]]

ENTRIES = """\
dn: uid=ada,dc=shirako,dc=test
objectClass: account
objectClass: posixAccount
uid: ada
cn: Ada
uidNumber: 21001
gidNumber: 21001
homeDirectory: /home/ada

dn: cn=lovelace,dc=shirako,dc=test
objectClass: posixGroup
cn: lovelace
gidNumber: 21001
memberUid: ada

dn: cn=slice1,dc=shirako,dc=test
objectClass: nisNetgroup
cn: slice1
nisNetgroupTriple: (node-1,ada,)

dn: cn=engine,dc=shirako,dc=test
objectClass: device
objectClass: ipHost
cn: engine
ipHostNumber: 10.9.8.7
"""


def out(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_each_node_is_logged_in_to_with_its_pinned_key(two_nodes: Up, login: Login) -> None:
    _, site = two_nodes
    assert site.mode == "namespaces"
    assert [out(login(site, node, "hostname; cat /etc/hostname")) for node in site.nodes] == [
        "node-1\nnode-1",
        "node-2\nnode-2",
    ]
    assert len({node.host_key for node in site.nodes}) == 2
    assert site.admin_key.stat().st_mode & 0o777 == 0o600


def test_a_wrong_host_key_or_admin_key_is_refused(
    two_nodes: Up, login: Login, tmp_path: Path
) -> None:
    _, site = two_nodes
    one, other = site.nodes
    impostor = login(site, replace(one, host_key=other.host_key), "true")
    assert impostor.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in impostor.stderr
    key_pair(tmp_path / "stranger")
    assert "Permission denied" in login(site, one, "true", key=tmp_path / "stranger").stderr


def test_processes_and_network_are_the_nodes_own(two_nodes: Up, login: Login) -> None:
    _, site = two_nodes
    one, other = site.nodes
    out(login(site, one, "setsid sleep 4242 >/dev/null 2>&1 & echo started"))
    assert "sleep 4242" in out(login(site, one, "ps -eo args"))
    assert "sleep 4242" not in out(login(site, other, "ps -eo args"))
    assert "pytest" not in out(login(site, one, "ps -eo args"))
    assert int(out(login(site, one, "cat /proc/sys/kernel/ns_last_pid"))) < 1000
    assert out(login(site, one, "ls /sys/class/net")).split() == ["eth0", "lo"]
    out(login(site, one, f": </dev/tcp/{other.name}/22"))


def test_orphans_are_reaped(two_nodes: Up, login: Login) -> None:
    _, site = two_nodes
    node = site.nodes[0]
    out(login(site, node, "for i in 1 2 3; do (setsid sh -c 'sleep 0.05' &) ; done; echo ok"))
    assert eventually(lambda: "Z" not in out(login(site, node, "sleep 0.2; ps -eo s=")), 5)


def test_an_account_made_on_a_node_is_its_own_and_logs_in(
    two_nodes: Up, login: Login, tmp_path: Path
) -> None:
    _, site = two_nodes
    node, other = site.nodes
    public = key_pair(tmp_path / "guest")
    script = (
        "useradd --create-home --shell /bin/bash --password '*' visitor && "
        "install -d -m 700 -o visitor -g visitor ~visitor/.ssh && "
        f"echo '{public}' > ~visitor/.ssh/authorized_keys"
    )
    out(login(site, node, script))
    guest = {"user": "visitor", "key": tmp_path / "guest"}
    assert out(login(site, node, "whoami; pwd", **guest)) == "visitor\n/home/visitor"
    with pytest.raises(KeyError):
        pwd.getpwnam("visitor")
    assert login(site, other, "id visitor").returncode == 1
    assert not Path("/home/visitor").exists()
    assert node.root is not None
    assert (node.root / "home/visitor").is_dir()


def test_a_guest_sees_nothing_of_the_machine(two_nodes: Up, login: Login, tmp_path: Path) -> None:
    _, site = two_nodes
    node = site.nodes[1]
    for path in (tmp_path, site.admin_key.parent):
        path.chmod(0o755)
        (path / "secret").write_text("world-readable")
    assert out(login(site, node, "ls -A /root /tmp /home /mnt /opt /srv /var/lib")).count("\n") < 16
    hidden = [
        *(tmp_path / "secret", site.admin_key.parent / "secret", site.directory.password_file),
        *(
            Path.cwd(),
            Path("/etc/shadow-"),
            Path("/etc/debian_version"),
            Path("/usr/share/doc/apt"),
        ),
    ]
    assert all(path.exists() for path in hidden if path.name != "shadow-")
    seen = [path for path in hidden if login(site, node, f"test -e '{path}'").returncode == 0]
    assert seen == []
    assert out(login(site, node, "cut -d: -f2 /etc/shadow | sort -u")) == "*"
    machine = Path("/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[1]
    assert login(site, node, f"grep -r {machine} /etc/ssh").returncode == 1
    assert out(login(site, node, "stat -c %a /etc /usr/share")) == "755\n755"


def test_what_a_node_writes_stays_on_it(two_nodes: Up, login: Login) -> None:
    _, site = two_nodes
    one, other = site.nodes
    places = ("/usr/bin/left", "/etc/left", "/tmp/left", "/dev/shm/left", "/run/left")
    out(login(site, one, f"touch {' '.join(places)}"))
    assert [place for place in places if Path(place).exists()] == []
    assert login(site, other, f"ls {' '.join(places)}").stdout == ""
    assert out(login(site, one, "ls /tmp/left")) == "/tmp/left"
    # Terminals are the node's own as well.
    assert out(login(site, one, "ls /dev/pts")) == "ptmx"


def test_the_directory_is_read_by_all_and_written_by_its_admin(two_nodes: Up, ldap: Ldap) -> None:
    _, site = two_nodes
    base = site.directory.base_dn
    assert f"dn: {base}" in out(ldap(site, "ldapsearch", "-b", base, "-LLL", admin=False))
    entry = f"dn: ou=x,{base}\nobjectClass: organizationalUnit\nou: x\n"
    refused = ldap(site, "ldapadd", ldif=entry, admin=False)
    assert refused.returncode == 8, refused.stderr  # strongerAuthRequired
    out(ldap(site, "ldapadd", ldif=entry))
    assert site.directory.password_file.stat().st_mode & 0o777 == 0o600


def test_nodes_look_things_up_in_the_directory(two_nodes: Up, login: Login, ldap: Ldap) -> None:
    _, site = two_nodes
    assert login(site, site.nodes[0], "getent passwd ada").returncode == 2
    out(ldap(site, "ldapadd", ldif=ENTRIES))
    for node in site.nodes:
        assert out(login(site, node, "getent passwd ada")) == "ada:*:21001:21001:Ada:/home/ada:"
        assert out(login(site, node, "getent group lovelace")) == "lovelace:*:21001:ada"
        assert out(login(site, node, "getent netgroup slice1")).split()[0] == "slice1"
        assert "node-1" in out(login(site, node, "getent netgroup slice1"))
        assert out(login(site, node, "getent hosts engine")).split() == ["10.9.8.7", "engine"]
    with pytest.raises(KeyError):
        pwd.getpwnam("ada")


def test_a_directory_outage_keeps_its_data_and_its_port(
    two_nodes: Up, login: Login, ldap: Ldap
) -> None:
    testbed, site = two_nodes
    node, base = site.nodes[1], site.directory.base_dn
    entry = f"dn: ou=kept,{base}\nobjectClass: organizationalUnit\nou: kept\n"
    out(ldap(site, "ldapadd", ldif=entry))
    testbed.stop_directory()
    testbed.stop_directory()
    assert ldap(site, "ldapsearch", "-b", base).returncode == 255  # nobody there
    began = time.monotonic()
    assert out(login(site, node, "id -un")) == "root"
    assert time.monotonic() - began < 10, "logins hang while the directory is away"
    testbed.start_directory()
    testbed.start_directory()
    assert "ou=kept" in out(ldap(site, "ldapsearch", "-b", base, "ou=kept"))
    account = ENTRIES.partition("\n\n")[0].replace("ada", "bob")
    out(ldap(site, "ldapadd", ldif=account))
    assert eventually(lambda: login(site, node, "getent passwd bob").returncode == 0)


def test_a_killed_node_loses_its_processes_and_keeps_its_files(two_nodes: Up, login: Login) -> None:
    testbed, site = two_nodes
    node, other = site.nodes
    out(login(site, node, "touch /etc/kept; (setsid sleep 5151 >/dev/null 2>&1 &)"))
    testbed.kill_node(node.name)
    assert not answers(node.host, node.port)
    assert out(login(site, other, "hostname")) == other.name
    testbed.start_node(node.name)
    testbed.start_node(node.name)
    assert "sleep 5151" not in out(login(site, node, "ls /etc/kept && ps -eo args"))
    assert out(login(site, node, "getent passwd root")).startswith("root:")


def test_unknown_nodes_are_named(two_nodes: Up) -> None:
    testbed, _ = two_nodes
    with pytest.raises(TestbedError, match="no node node-3; there are node-1 to node-2"):
        testbed.kill_node("node-3")


def test_without_nss_nodes_know_files_alone(tmp_path: Path, login: Login) -> None:
    with Testbed(tmp_path, nodes=1, nss=False) as testbed:
        site = testbed.start(print)
        assert "nslcd" not in out(login(site, site.nodes[0], "ps -eo comm"))
        assert out(login(site, site.nodes[0], "grep -c ldap /etc/nsswitch.conf; true")) == "0"
    assert list((tmp_path / "layers").iterdir()) == []


def test_the_callers_umask_is_not_the_nodes(tmp_path: Path, login: Login) -> None:
    mask = os.umask(0o077)
    try:
        with Testbed(tmp_path, nodes=1) as testbed:
            site = testbed.start(print)
            node = site.nodes[0]
            modes = "umask; stat -c %a / /etc /etc/ssh /etc/passwd /etc/hosts /tmp /var /var/log"
            assert out(login(site, node, modes)).split() == [
                *("0022", "755", "755", "755", "644", "644", "1777", "755", "755"),
            ]
            testbed.kill_node(node.name)
            testbed.start_node(node.name)
            assert out(login(site, node, "umask")) == "0022"
    finally:
        os.umask(mask)
