"""Runs blocking work of handlers in a bounded number of threads, and stops it when asked.

paramiko and ldap3 block. A handler may be cancelled at any await; its thread must then end soon, or
it would go on to configure a unit that somebody else has meanwhile. A thread cannot be killed, but
what it waits for can: each `Call` knows its sockets, and shuts them when the handler is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shirako.handlers import Log

T = TypeVar("T")


class Cancelled(Exception):
    """The handler whose work this was is no longer waited for."""


class Call:
    """What a thread may ask of the handler that it works for; all methods may be called there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self._loop = loop
        self._log = log
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def log(self, line: str) -> None:
        if not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._log, line)

    def now(self) -> float:
        """Seconds on the event loop's clock, for deadlines."""
        return self._loop.time()

    def pause(self, seconds: float) -> None:
        """Sleep; raises `Cancelled` as soon as the handler is."""
        if self._stopped.wait(seconds):
            raise Cancelled

    def guard(self, connection: socket.socket) -> None:
        """Shut this socket when the handler is cancelled; raises `Cancelled` if it was already."""
        with self._lock:
            if self._stopped.is_set():
                raise Cancelled
            self._sockets.append(connection)

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class Threads:
    """At most `limit` calls at once; more wait for their turn."""

    def __init__(self, limit: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix=name)
        self._calls: set[Call] = set()

    async def run(self, work: Callable[[Call], T], log: Log) -> T:
        """Do `work` in a thread; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        call = Call(loop, log)
        self._calls.add(call)
        try:
            return await loop.run_in_executor(self._pool, work, call)
        finally:
            self._calls.discard(call)
            call.stop()

    async def close(self) -> None:
        """Stop all work and wait for the threads to end."""
        for call in self._calls:
            call.stop()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
