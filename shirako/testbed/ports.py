"""Ports of loopback and other own addresses that nobody listens on."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterator
from itertools import chain

from shirako.testbed.site import TestbedError

# Below the range that the kernel takes for outgoing connections, which would race with us.
_FIRST, _LAST = 20_000, 32_000


def free_ports(addresses: tuple[str, ...], *, seed: str) -> Iterator[int]:
    """Ports that are free at all `addresses`; the same seed gives the same ports while it can.

    Raises `TestbedError` when there are no more.
    """
    start = _FIRST + zlib.crc32(seed.encode()) % (_LAST - _FIRST)
    for port in chain(range(start, _LAST), range(_FIRST, start)):
        if all(is_free(address, port) for address in addresses):
            yield port
    raise TestbedError(f"no free port between {_FIRST} and {_LAST}")


def is_free(address: str, port: int) -> bool:
    """Whether nobody listens on this port of an own address."""
    with socket.socket() as probe:
        # As the daemons do: connections that linger after an earlier start do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
