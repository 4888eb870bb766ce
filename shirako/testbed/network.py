"""The private network of a testbed: a bridge, and a subnet that nothing else here uses."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from shirako.testbed.components import program
from shirako.testbed.remains import Link, Remains
from shirako.testbed.site import TestbedError

MOST_NODES = 1000
"""A bridge has up to 1023 ports."""

_PREFIX = 22
_POOLS = ("10.0.0.0/8", "172.16.0.0/12", "198.18.0.0/15")
_LINKS = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Network:
    bridge: str
    subnet: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address: the machine, as nodes see it."""
        return self.subnet[1]

    def address(self, number: int) -> IPv4Address:
        """Address of node `number`, counted from 1."""
        return self.subnet[1 + number]

    def cable(self, number: int) -> str:
        """Name of the outer end of a node's cable; at most 15 characters."""
        return f"{self.bridge}n{number}"


def make_network(folder: Path, remains: Remains) -> Network:
    """Make the bridge of the testbed in `folder`, named after it.

    Raises `TestbedError` when no subnet is free.
    """
    seed = zlib.crc32(os.fsencode(folder))
    with _choosing():
        network = Network(_free_name(seed), _free_subnet(seed))
        remains.add(Link(network.bridge))
        # A bridge without an address of its own takes its lowest port's and changes it with the
        # ports, which leaves nodes talking to an address that is gone.
        mac = ":".join(f"{byte:02x}" for byte in (0x02, 0x53, *seed.to_bytes(4)))
        run_ip(
            (
                f"link add {network.bridge} address {mac} type bridge",
                f"address add {network.gateway}/{_PREFIX} dev {network.bridge}",
                f"link set {network.bridge} up",
            )
        )
    return network


def plug(network: Network, processes: Iterable[int], remains: Remains) -> None:
    """Lay a cable from the bridge to the network namespace of each process, as its `eth0`.

    The first process is that of node 1, and so on.
    """
    cables = {network.cable(number): pid for number, pid in enumerate(processes, start=1)}
    remains.add(*map(Link, cables))
    run_ip(
        f"link add {cable} master {network.bridge} up type veth peer name eth0 netns {pid}"
        for cable, pid in cables.items()
    )


def run_ip(commands: Iterable[str]) -> None:
    """Raises `TestbedError` with what `ip` said when one of `commands` fails."""
    done = subprocess.run(
        [program("ip"), "-batch", "-"],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise TestbedError(f"ip failed: {done.stderr.strip()}")


@contextmanager
def _choosing() -> Iterator[None]:
    """Keeps other testbeds of this machine from choosing the same at the same time."""
    folder = os.open(_LINKS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _free_name(seed: int) -> str:
    for attempt in range(16):
        name = f"sk{(seed + attempt) % 2**32:08x}"
        if not (_LINKS / name).exists():
            return name
    raise TestbedError(f"the names of network links from sk{seed:08x} on are taken")


def _free_subnet(seed: int) -> IPv4Network:
    taken = _routed()
    for pool in map(IPv4Network, _POOLS):
        subnets = 2 ** (_PREFIX - pool.prefixlen)
        for attempt in range(subnets):
            subnet = _subnet(pool, (seed + attempt) % subnets)
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
    raise TestbedError(f"no free private network among {', '.join(_POOLS)}")


def _subnet(pool: IPv4Network, number: int) -> IPv4Network:
    return IPv4Network((int(pool.network_address) + number * 2 ** (32 - _PREFIX), _PREFIX))


def _routed() -> list[IPv4Network]:
    """What the machine has routes for, its own addresses among them."""
    done = subprocess.run(
        [program("ip"), "-json", "-4", "route", "show", "table", "all"],
        capture_output=True,
        text=True,
        check=True,
    )
    routes = [route["dst"] for route in json.loads(done.stdout)]
    return [IPv4Network(route) for route in routes if route not in ("default", "0.0.0.0/0")]
