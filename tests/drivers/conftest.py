"""A real site for the drivers' tests: nodes with sshd, a slapd, and a guest with a key."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shirako.handlers import UnitJob
from shirako.testbed import Node, Site, Testbed
from shirako_drivers.directory import DirectoryDriver, DirectoryOptions
from shirako_drivers.ssh import NodeOptions, SshDriver

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    with Testbed(tmp_path_factory.mktemp("site"), nodes=4, mode="namespaces") as testbed:
        yield testbed


@pytest.fixture(scope="session")
def site(testbed: Testbed) -> Site:
    return testbed.start(print)


@pytest.fixture(scope="session")
def guest_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guest") / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", 'it\'s "me" $(id)', "-f", path],
        check=True,
    )
    return path


@pytest.fixture(scope="session")
def make_job(guest_key: Path) -> Callable[..., UnitJob]:
    """`make_job(node, **fields)`: a job of slice green with an epoch of its own."""
    epochs = itertools.count(1)
    public = guest_key.with_suffix(".pub").read_text().strip()

    def make(node: Node, **fields: Any) -> UnitJob:
        attributes = {"host": node.host, "port": str(node.port), "host_key": node.host_key}
        if not node.accounts:
            attributes |= {
                "accounts": "false",
                "admin_user": node.admin_user,
                "guest_keys": str(node.guest_keys),
            }
        job = UnitJob(
            unit=node.name,
            epoch=next(epochs),
            lease="lease-1",
            slice="green",
            type="node",
            end=2_000_000_000,
            node=attributes,
            properties={},
            keys=(public,),
            outputs={},
        )
        return replace(job, **fields)

    return make


@pytest.fixture
def ssh_driver(site: Site) -> Callable[..., SshDriver]:
    """`ssh_driver(**options)`: a driver with the site's admin key and a quick loser's patience."""

    def make(**options: Any) -> SshDriver:
        quick = {"admin_key": site.admin_key, "retry_pause": 0.05, "command_timeout": 20}
        return SshDriver(NodeOptions.model_validate(quick | options))

    return make


@pytest.fixture
async def driver(ssh_driver: Callable[..., SshDriver]) -> AsyncIterator[SshDriver]:
    driver = ssh_driver()
    yield driver
    await driver.close()


@pytest.fixture
async def node(
    site: Site, driver: SshDriver, make_job: Callable[..., UnitJob]
) -> AsyncIterator[Node]:
    """A clean node, cleaned again after the test whatever the test left."""
    yield site.nodes[0]
    await driver.teardown(make_job(site.nodes[0]), print)


@pytest.fixture(scope="module")
def plain_node(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Node]:
    """A node without accounts, which takes the same admin key as the others."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "admin_key").write_bytes(site.admin_key.read_bytes())
    (folder / "admin_key").chmod(0o600)
    with Testbed(folder, nodes=1, mode="processes") as testbed:
        yield testbed.start(print).nodes[0]


@pytest.fixture
async def directory_driver(site: Site) -> AsyncIterator[DirectoryDriver]:
    directory = site.directory
    driver = DirectoryDriver(
        DirectoryOptions(
            url=directory.url,
            base_dn=directory.base_dn,
            bind_dn=directory.bind_dn,
            password_file=directory.password_file,
        )
    )
    yield driver
    await driver.close()


@pytest.fixture
def inside() -> Run:
    """`inside(node, script)`: a shell as root on a node, from outside, without SSH."""

    def run(node: Node, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        assert node.root is not None
        return subprocess.run(
            ["nsenter", "--target", node.root.parent.name, "--all", "sh", "-c", script],
            capture_output=True,
            text=True,
            check=check,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    return run


@pytest.fixture
def ssh_command(guest_key: Path, tmp_path: Path) -> Callable[[Node, str], list[str]]:
    """`ssh_command(node, user)`: the system's ssh with the guest's key, the host key pinned."""

    def make(node: Node, user: str) -> list[str]:
        name = node.host if node.port == 22 else f"[{node.host}]:{node.port}"
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(f"{name} {node.host_key}\n")
        options = {
            "IdentityFile": guest_key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": os.devnull,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
        }
        words = [word for pair in options.items() for word in ("-o", "{}={}".format(*pair))]
        return ["ssh", "-F", os.devnull, *words, "-p", str(node.port), f"{user}@{node.host}"]

    return make


@pytest.fixture
def ssh(ssh_command: Callable[[Node, str], list[str]]) -> Run:
    """`ssh(node, user, command)`: log in as a guest does."""

    def run(node: Node, user: str, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ssh_command(node, user), command], capture_output=True, text=True, timeout=60
        )

    return run
