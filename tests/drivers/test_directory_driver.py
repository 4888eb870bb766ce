"""Driver `directory` on a real slapd, and what standard clients read there."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shirako.handlers import Unavailable, UnitJob
from shirako.testbed import Node, Site, Testbed
from shirako_drivers.directory import DirectoryDriver, DirectoryOptions
from shirako_drivers.ssh import SshDriver

pytestmark = [pytest.mark.real, pytest.mark.root]

Jobs = Callable[..., UnitJob]
Run = Callable[..., subprocess.CompletedProcess[str]]
Search = Callable[..., list[str]]


@pytest.fixture
def search(site: Site) -> Search:
    """`search(filter, *attributes)`: sorted lines of the system's ldapsearch."""

    def run(filter_: str = "(objectClass=*)", *attributes: str) -> list[str]:
        directory = site.directory
        base = ["-x", "-LLL", "-o", "ldif-wrap=no", "-H", directory.url, "-b", directory.base_dn]
        found = subprocess.run(
            ["ldapsearch", *base, filter_, *(attributes or ["1.1"])],
            capture_output=True,
            text=True,
            check=True,
        )
        return sorted(line for line in found.stdout.splitlines() if line)

    return run


async def test_a_unit_appears_and_goes(
    directory_driver: DirectoryDriver, site: Site, make_job: Jobs, search: Search
) -> None:
    node, base = site.nodes[0], site.directory.base_dn
    empty = search()
    job = make_job(node, outputs={"host.name": "web-node-1"})
    outputs = await directory_driver.setup(job, print)
    assert outputs == {"directory.dn": f"ou=green,{base}", "directory.netgroup": "s-green"}
    assert search("(objectClass=ipHost)", "cn", "ipHostNumber") == sorted(
        [
            f"dn: cn=node-1,ou=hosts,ou=green,{base}",
            "cn: node-1",
            "cn: web-node-1",
            f"ipHostNumber: {node.host}",
        ]
    )
    user = search("(objectClass=posixAccount)", "uid", "gidNumber", "homeDirectory")
    assert f"dn: uid=s-green,ou=people,ou=green,{base}" in user
    assert "homeDirectory: /home/s-green" in user
    assert search("(objectClass=nisNetgroup)", "nisNetgroupTriple") == [
        f"dn: cn=s-green,ou=netgroups,ou=green,{base}",
        "nisNetgroupTriple: (node-1,s-green,)",
        "nisNetgroupTriple: (web-node-1,s-green,)",
    ]
    await directory_driver.probe(job, print)
    assert await directory_driver.teardown(job, print) == ("directory_gone",)
    assert search() == empty


async def test_every_handler_may_run_again(
    directory_driver: DirectoryDriver, site: Site, make_job: Jobs, search: Search
) -> None:
    empty = search()
    job = make_job(site.nodes[0])
    assert await directory_driver.teardown(job, print) == ("directory_gone",)
    await directory_driver.setup(job, print)
    first = search("(objectClass=*)", "*")
    await directory_driver.setup(job, print)
    assert search("(objectClass=*)", "*") == first
    moved = replace(job, node={**job.node, "host": "192.0.2.7"})
    await directory_driver.setup(moved, print)
    assert "ipHostNumber: 192.0.2.7" in search("(objectClass=ipHost)", "ipHostNumber")
    await directory_driver.teardown(job, print)
    await directory_driver.teardown(job, print)
    assert search() == empty


@pytest.mark.parametrize("left", ["hosts", "hosts and netgroup", "all but a host"])
async def test_a_half_removed_slice_is_made_whole(
    directory_driver: DirectoryDriver, site: Site, make_job: Jobs, search: Search, left: str
) -> None:
    """What a crash between two operations leaves is finished by the next run."""
    base = f"ou=green,{site.directory.base_dn}"
    job = make_job(site.nodes[0])
    empty = search()
    await directory_driver.setup(job, print)
    whole = search("(objectClass=*)", "*")
    gone = [f"cn=node-1,ou=hosts,{base}"]
    if left != "all but a host":
        gone.append(f"ou=hosts,{base}")
    if left == "hosts and netgroup":
        gone.append(f"cn=s-green,ou=netgroups,{base}")
    _delete(site, gone)
    await directory_driver.setup(job, print)
    assert search("(objectClass=*)", "*") == whole
    _delete(site, gone)
    await directory_driver.teardown(job, print)
    assert search() == empty


async def test_eight_units_of_a_slice_at_once(
    directory_driver: DirectoryDriver, site: Site, make_job: Jobs, search: Search
) -> None:
    """Two leases of four units; each lease comes and goes at once."""
    empty = search()
    jobs = [make_job(site.nodes[0], unit=f"n{i}", lease=f"lease-{i % 2}") for i in range(8)]
    await asyncio.gather(*(directory_driver.setup(job, print) for job in jobs))
    assert _hosts_in_netgroup(search) == [f"n{i}" for i in range(8)]
    await asyncio.gather(*(directory_driver.teardown(job, print) for job in jobs[::2]))
    assert _hosts_in_netgroup(search) == ["n1", "n3", "n5", "n7"]
    await asyncio.gather(
        *(directory_driver.teardown(job, print) for job in jobs[1::2]),
        *(directory_driver.setup(job, print) for job in jobs[::2]),
    )
    assert _hosts_in_netgroup(search) == ["n0", "n2", "n4", "n6"]
    await asyncio.gather(*(directory_driver.teardown(job, print) for job in jobs[::2]))
    assert search() == empty


async def test_two_guests_may_use_one_slice_name(
    directory_driver: DirectoryDriver, site: Site, make_job: Jobs, search: Search
) -> None:
    """ISOLATED: neither sees its account or hosts merged with the other's."""
    empty = search()
    ann, bob = (
        make_job(site.nodes[i], properties={"guest": guest}) for i, guest in enumerate("AB")
    )
    first = await directory_driver.setup(ann, print)
    second = await directory_driver.setup(bob, print)
    assert first["directory.dn"] == f"ou=green@A,{site.directory.base_dn}"
    assert first["directory.netgroup"] != second["directory.netgroup"]
    assert len(set(search("(objectClass=posixAccount)", "uidNumber"))) == 4
    await directory_driver.teardown(ann, print)
    assert _hosts_in_netgroup(search) == ["node-2"]
    await directory_driver.teardown(bob, print)
    assert search() == empty


async def test_a_slice_name_cannot_leave_its_place(
    directory_driver: DirectoryDriver, site: Site, make_job: Jobs, search: Search
) -> None:
    empty = search()
    for name in ["x,ou=people", "a+cn=b", '"#<>;=\\', " blank ", "*)(uid=*", "naïve", "#1"]:
        job = make_job(site.nodes[0], slice=name)
        await directory_driver.setup(job, print)
        top = search("(objectClass=organizationalUnit)")
        assert len(top) == len(empty) + 4, name
        await directory_driver.teardown(job, print)
        assert search() == empty


async def test_a_directory_that_is_down_blames_nobody(
    directory_driver: DirectoryDriver,
    testbed: Testbed,
    site: Site,
    make_job: Jobs,
    search: Search,
) -> None:
    job = make_job(site.nodes[0])
    await directory_driver.setup(job, print)
    testbed.stop_directory()
    try:
        for handler in (
            directory_driver.setup,
            directory_driver.teardown,
            directory_driver.probe,
        ):
            with pytest.raises(Unavailable, match="the directory ldap://"):
                await handler(job, print)
    finally:
        testbed.start_directory()
    assert _hosts_in_netgroup(search) == ["node-1"]
    await directory_driver.teardown(job, print)


async def test_a_directory_that_refuses_blames_nobody(
    site: Site, make_job: Jobs, tmp_path: Path
) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("not it")
    wrong.chmod(0o600)
    directory = site.directory
    options: dict[str, object] = {
        "url": directory.url,
        "base_dn": directory.base_dn,
        "bind_dn": directory.bind_dn,
        "password_file": directory.password_file,
        "connect_timeout": 0.5,
        "operation_timeout": 1,
    }
    changes: list[tuple[dict[str, object], str]] = [
        ({"password_file": wrong}, "invalidCredentials"),
        ({"password_file": tmp_path / "absent"}, "No such file"),
        ({"base_dn": "ou=nowhere," + directory.base_dn}, "no entry ou=nowhere"),
        ({"start_tls": True}, "TLS|tls"),
        ({"url": "ldaps://" + directory.url.removeprefix("ldap://")}, "ldaps"),
    ]
    for change, message in changes:
        driver = DirectoryDriver(DirectoryOptions.model_validate(options | change))
        with pytest.raises(Unavailable, match=message) as caught:
            await driver.setup(make_job(site.nodes[0]), print)
        assert "not it" not in str(caught.value)
        await driver.close()


async def test_a_silent_directory_is_given_up(site: Site, make_job: Jobs) -> None:
    async with await asyncio.start_server(_never_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        driver = DirectoryDriver(
            DirectoryOptions(
                url=f"ldap://127.0.0.1:{port}",
                base_dn="dc=x",
                bind_dn="cn=x",
                password_file=site.directory.password_file,
                operation_timeout=1,
            )
        )
        with pytest.raises(Unavailable):
            await asyncio.wait_for(driver.probe(make_job(site.nodes[0]), print), 10)
        patient = asyncio.create_task(driver.probe(make_job(site.nodes[0]), print))
        await asyncio.sleep(0.2)
        patient.cancel()
        await asyncio.wait_for(driver.close(), 5)


async def test_the_nodes_own_clients_see_a_slice(
    directory_driver: DirectoryDriver,
    driver: SshDriver,
    node: Node,
    make_job: Jobs,
    inside: Run,
    site: Site,
) -> None:
    """Both drivers on a node whose NSS reads the directory: they agree, and do not collide."""
    job, other = make_job(node), make_job(site.nodes[1])
    # The other unit's set-up has put the slice's account into NSS before this unit is set up.
    await directory_driver.setup(other, print)
    assert "s-green" in inside(node, "getent passwd s-green").stdout
    outputs = await driver.setup(job, print)
    await directory_driver.setup(replace(job, outputs=outputs), print)
    local = inside(node, "grep s-green: /etc/passwd").stdout.split(":")
    distant = inside(node, "getent -s ldap passwd s-green").stdout.split(":")
    assert local[2:4] == distant[2:4]
    assert local[5:] == distant[5:]
    assert inside(node, "getent -s ldap group s-green").stdout.split(":")[2] == local[2]
    triples = inside(node, "getent netgroup s-green").stdout
    assert set(re.findall(r"\((.*?),(.*?),", triples)) == {
        ("node-1", "s-green"),
        ("node-2", "s-green"),
    }
    assert node.host in inside(node, "getent -s ldap hosts node-1").stdout
    await driver.teardown(job, print)
    await directory_driver.teardown(job, print)
    await directory_driver.teardown(other, print)
    assert inside(node, "getent -s ldap passwd s-green", check=False).stdout == ""


@pytest.fixture
def tls_slapd(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A second directory, which speaks TLS with a certificate that it signed itself."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=test"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "data").mkdir()
    schema = "".join(f"include /etc/ldap/schema/{n}.schema\n" for n in ("core", "cosine", "nis"))
    (tmp_path / "slapd.conf").write_text(
        f"{schema}modulepath /usr/lib/ldap\nmoduleload back_mdb\n"
        f"TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n"
        "security simple_bind=128\n"
        'database mdb\nmaxsize 10485760\nsuffix "dc=tls"\nrootdn "cn=admin,dc=tls"\n'
        f"rootpw secret\ndirectory {tmp_path}/data\ndbnosync\n"
    )
    subprocess.run(
        ["/usr/sbin/slapadd", "-q", "-f", tmp_path / "slapd.conf"],
        input=b"dn: dc=tls\nobjectClass: dcObject\nobjectClass: organization\ndc: tls\no: t\n",
        check=True,
    )
    plain, tls = _free_port(), _free_port()
    urls = f"ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}"
    with subprocess.Popen(
        ["/usr/sbin/slapd", "-d", "0", "-f", tmp_path / "slapd.conf", "-h", urls]
    ) as slapd:
        try:
            _await_port(tls)
            yield {
                "ldap": f"ldap://127.0.0.1:{plain}",
                "ldaps": f"ldaps://127.0.0.1:{tls}",
                "ca_file": str(certificate),
                "password_file": str(tmp_path / "password"),
            }
        finally:
            slapd.terminate()


# ldap3's own check of names is older than Python's; where it fails, ldap3 leaves a socket open.
@pytest.mark.filterwarnings("ignore:ssl.match_hostname:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
async def test_the_directory_is_reached_over_tls(
    tls_slapd: dict[str, str], site: Site, make_job: Jobs
) -> None:
    job = make_job(site.nodes[0])
    common = {
        "base_dn": "dc=tls",
        "bind_dn": "cn=admin,dc=tls",
        "password_file": tls_slapd["password_file"],
    }
    trusted = {"ca_file": tls_slapd["ca_file"]}
    good = [{"url": tls_slapd["ldap"], "start_tls": "true"}, {"url": tls_slapd["ldaps"]}]
    for change in good:
        options = DirectoryOptions.model_validate(common | trusted | change)
        driver = DirectoryDriver(options)
        await driver.setup(job, print)
        assert await driver.teardown(job, print) == ("directory_gone",)
        await driver.close()
    bad = {
        "without its authority": {"url": tls_slapd["ldaps"]},
        "under another name": {"url": tls_slapd["ldaps"].replace("127.0.0.1", "127.1"), **trusted},
        "without TLS": {"url": tls_slapd["ldap"]},
    }
    for case, change in bad.items():
        driver = DirectoryDriver(DirectoryOptions.model_validate(common | change))
        with pytest.raises(Unavailable):
            await driver.setup(job, print)
            pytest.fail(case)
        await driver.close()
    gc.collect()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "slapd does not answer"
            time.sleep(0.005)
        else:
            return


async def _never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def _delete(site: Site, names: list[str]) -> None:
    directory = site.directory
    secret = str(directory.password_file)
    bind = ["-x", "-H", directory.url, "-D", directory.bind_dn, "-y", secret]
    subprocess.run(["ldapdelete", *bind, *names], check=True)


def _hosts_in_netgroup(search: Search) -> list[str]:
    lines = search("(objectClass=nisNetgroup)", "nisNetgroupTriple")
    return [found[1] for line in lines if (found := re.search(r"\((.*?),", line))]
