"""How long it takes to set up and to tear down 1, 8 and 32 real nodes over SSH, all at once.

The driver `ssh` is called directly, without actors, on nodes of a testbed: network namespaces of
this machine with an sshd each. A set-up is an administrator's login that makes the account, a
login as the guest with a one-time key, and the removal of that key; a teardown removes and
verifies, and then tries to log in as the guest.

References in the same run, on the same nodes and with as many at once: one bare login each that
runs `true`, with paramiko (TCP_NODELAY set, as the driver does) and with the system's `ssh` (whose
default key exchange, made to resist quantum computers, costs more CPU than paramiko's).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import paramiko

from bench.rig import report
from shirako.handlers import UnitJob
from shirako.testbed import Node, Site, Testbed, TestbedError
from shirako_drivers.ssh import NodeOptions, SshDriver

SIZES = (1, 8, 32)
QUICK_SIZES = (1, 8)

Round = Callable[[Node], Awaitable[object]]


class Logins:
    """Bare logins as root that run `true`: what any way of setting nodes up has to pay."""

    def __init__(self, site: Site, folder: Path, workers: int) -> None:
        self._admin_key = site.admin_key
        self._key = paramiko.PKey.from_path(site.admin_key)
        self._known_hosts = folder / "known_hosts"
        self._known_hosts.write_text("".join(f"{n.host} {n.host_key}\n" for n in site.nodes))
        self._threads = ThreadPoolExecutor(workers)

    async def with_paramiko(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._paramiko, node)

    def _paramiko(self, node: Node) -> None:
        sock = socket.create_connection((node.host, node.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with paramiko.SSHClient() as client:
            client.load_host_keys(str(self._known_hosts))
            client.connect(
                node.host,
                node.port,
                username=node.admin_user,
                pkey=self._key,
                sock=sock,
                allow_agent=False,
                look_for_keys=False,
            )
            _, output, _ = client.exec_command("true")
            if output.channel.recv_exit_status() != 0:
                raise RuntimeError(f"`true` failed on {node.name}")

    async def with_ssh(self, node: Node) -> None:
        options = (
            f"UserKnownHostsFile={self._known_hosts}",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "LogLevel=ERROR",
        )
        flags = [part for option in options for part in ("-o", option)]
        target = f"{node.admin_user}@{node.host}"
        process = await asyncio.create_subprocess_exec(
            *("ssh", "-F", "none", "-i", str(self._admin_key), *flags, target, "true"),
            stdin=subprocess.DEVNULL,
        )
        if await process.wait() != 0:
            raise RuntimeError(f"ssh to {node.name} failed")

    def close(self) -> None:
        self._threads.shutdown()


class Lives:
    """Set-ups and teardowns by the driver; each set-up begins a new assignment of its node."""

    def __init__(self, driver: SshDriver, guest_key: str) -> None:
        self._driver = driver
        self._guest_key = guest_key
        self._epochs = itertools.count(1)
        self._jobs: dict[str, UnitJob] = {}

    async def set_up(self, node: Node) -> None:
        epoch = next(self._epochs)
        job = UnitJob(
            unit=node.name,
            epoch=epoch,
            lease=f"bench-{epoch}",
            slice="bench",
            type="node",
            end=2_000_000_000,
            node={"host": node.host, "port": str(node.port), "host_key": node.host_key},
            properties={},
            keys=(self._guest_key,),
            outputs={},
        )
        outputs = await self._driver.setup(job, _quiet)
        self._jobs[node.name] = replace(job, outputs=outputs)

    async def tear_down(self, node: Node) -> None:
        checks = await self._driver.teardown(self._jobs[node.name], _quiet)
        if "account_gone" not in checks:
            raise RuntimeError(f"{node.name} was not checked: {checks}")


def _quiet(_line: str) -> None:
    """The story is not what is measured."""


async def seconds(nodes: tuple[Node, ...], doing: Round) -> float:
    """Of one round of `doing` over all nodes at once, to the end of the last one."""
    begun = time.perf_counter()
    await asyncio.gather(*map(doing, nodes))
    return time.perf_counter() - begun


async def measure(site: Site, folder: Path, sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    most = max(sizes)
    options = {"admin_key": site.admin_key, "connections": most}
    driver = SshDriver(NodeOptions.model_validate(options))
    lives = Lives(driver, make_guest_key(folder / "guest_key"))
    logins = Logins(site, folder, most)
    taken: dict[str, list[float]] = defaultdict(list)
    try:
        for node in site.nodes:  # a node's first login reads its programs from the disk
            await lives.set_up(node)
            await lives.tear_down(node)
        # The kinds take turns, so that what else the machine does meets all of them alike.
        for _, size in itertools.product(range(rounds), sizes):
            nodes = site.nodes[:size]
            taken[f"login_s.{size}"].append(await seconds(nodes, logins.with_paramiko))
            taken[f"setup_s.{size}"].append(await seconds(nodes, lives.set_up))
            taken[f"teardown_s.{size}"].append(await seconds(nodes, lives.tear_down))
            taken[f"ssh_s.{size}"].append(await seconds(nodes, logins.with_ssh))
    finally:
        await driver.close()
        logins.close()
    return told(sizes, {name: statistics.median(values) for name, values in taken.items()}, rounds)


def told(sizes: tuple[int, ...], median: Mapping[str, float], rounds: int) -> dict[str, Any]:
    figures: dict[str, float] = {}
    references: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for size in sizes:
        for name in ("setup", "teardown"):
            taken = median[f"{name}_s.{size}"]
            figures[f"{name}_s.{size}"] = taken
            figures[f"{name}_ms_per_node.{size}"] = taken * 1000 / size
            ratios[f"{name}_to_login.{size}"] = taken / median[f"login_s.{size}"]
            ratios[f"{name}_to_ssh.{size}"] = taken / median[f"ssh_s.{size}"]
        references |= {f"{name}_s.{size}": median[f"{name}_s.{size}"] for name in ("login", "ssh")}
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "machine": report.machine(paramiko=paramiko.__version__, rounds=rounds),
    }


def make_guest_key(path: Path) -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


def main(*, quick: bool) -> dict[str, Any]:
    """Raises `TestbedError` where nodes with accounts of their own can not be made."""
    sizes = QUICK_SIZES if quick else SIZES
    tell = partial(print, file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="shirako-bench-") as name:
        folder = Path(name)
        with Testbed(folder / "testbed", nodes=max(sizes), mode="namespaces", nss=False) as testbed:
            site = testbed.start(_quiet)
            tell(f"{len(site.nodes)} nodes are up")
            return asyncio.run(measure(site, folder, sizes, rounds=3 if quick else 7))


if __name__ == "__main__":
    chosen = report.options(__doc__, "1 and 8 nodes only, fewer rounds").parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/setup.py makes nodes with accounts and networks of their own: run as root")
    try:
        result = main(quick=chosen.quick)
    except TestbedError as error:
        sys.exit(f"bench/setup.py: {error}")
    report.show(result, as_json=chosen.json)
