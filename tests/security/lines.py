"""A connection on which everything can be said at any pace."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Line:
    """A connection on which everything can be said at any pace."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def dribble(self, data: bytes) -> None:
        """A byte every 20 ms, for as long as somebody listens."""
        with contextlib.suppress(ConnectionError):
            for byte in data:
                await self.say(bytes((byte,)))
                await asyncio.sleep(0.02)

    async def rest(self) -> bytes:
        """All that comes until the other end hangs up."""
        heard = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while chunk := await self.reader.read(65_536):
                    heard += chunk
        return heard

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one answer."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, json.loads(body)

    def close(self) -> None:
        self.writer.close()
