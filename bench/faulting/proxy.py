"""A TCP proxy that breaks what goes through it, for as long as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

CHUNK_BYTES = 64 * 1024


class Trouble(Enum):
    """What can be the matter with a connection. Values are the names that people see."""

    CUT = "cut"
    """Connections break, and new ones are closed at once."""
    HUNG = "hung"
    """Nothing passes; afterwards all that was held goes on."""
    MUTE = "mute"
    """What is said arrives, answers do not; afterwards the connections that waited break."""
    SLOW = "slow"
    """Each piece is held for a while, in both directions."""


@dataclass(slots=True, eq=False)
class _Pair:
    """One connection that was taken, and the one that it is passed on to."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    far_reader: asyncio.StreamReader
    robbed: bool = False
    """An answer was withheld."""

    def abort(self) -> None:
        self.near.transport.abort()
        self.far.transport.abort()


class Proxy:
    """Listens on `port` of 127.0.0.1 and passes on to `target`; in trouble only within `with`."""

    def __init__(self, name: str, port: int, target: tuple[str, int], *, slow: float = 0.4) -> None:
        """`slow`: seconds that each piece is held in `Trouble.SLOW`."""
        self.name = name
        self.port = port
        self._target = target
        self._slow = slow
        self._trouble: Trouble | None = None
        self._calm = asyncio.Event()
        self._calm.set()
        self._pairs: set[_Pair] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            self._abort(set(self._pairs))
            self._calm.set()
            await server.wait_closed()
            await asyncio.gather(*self._serving)

    @asynccontextmanager
    async def in_trouble(self, trouble: Trouble) -> AsyncIterator[None]:
        """One trouble at a time."""
        if self._trouble is not None:
            raise RuntimeError(f"{self.name} is {self._trouble.value} already")
        self._trouble = trouble
        self._calm.clear()
        if trouble is Trouble.CUT:
            self._abort(set(self._pairs))
        try:
            yield
        finally:
            self._trouble = None
            self._abort({pair for pair in self._pairs if pair.robbed})
            self._calm.set()

    def _abort(self, pairs: set[_Pair]) -> None:
        for pair in pairs:
            pair.abort()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = await self._connected(writer)
        if pair is None:
            writer.transport.abort()
            return
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(pair, reader, pair.far, answers=False))
                group.create_task(self._pump(pair, pair.far_reader, writer, answers=True))
        finally:
            self._pairs.discard(pair)
            pair.abort()

    async def _connected(self, near: asyncio.StreamWriter) -> _Pair | None:
        """None when nobody is there, or nobody is to be."""
        if self._closed():
            return None
        try:
            reader, writer = await asyncio.open_connection(*self._target)
        except OSError:
            return None
        pair = _Pair(near, writer, reader)
        if self._closed():
            pair.abort()
            return None
        return pair

    def _closed(self) -> bool:
        return self._trouble is Trouble.CUT or self._server is None

    async def _pump(
        self,
        pair: _Pair,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        answers: bool,
    ) -> None:
        """Pass pieces on until one end is done; the end is passed on as well."""
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await self._hold(pair, answers=answers)
                writer.write(chunk)
                await writer.drain()
            await self._hold(pair, answers=answers)
            writer.write_eof()
        except OSError:
            pair.abort()  # one end is gone: the other one is to notice

    async def _hold(self, pair: _Pair, *, answers: bool) -> None:
        if self._trouble is Trouble.SLOW:
            await asyncio.sleep(self._slow)
        if self._trouble is Trouble.MUTE and answers:
            pair.robbed = True
        if self._trouble is Trouble.HUNG or pair.robbed:
            await self._calm.wait()
        if pair.near.is_closing() or pair.far.is_closing():
            raise ConnectionAbortedError
