"""A lease's changes as server-sent events: `lease` (its record), `story` (a line more), `end`.

The stream ends when nothing more will happen by itself, when the token is revoked, or when the
actor stops. `id` of an event is the number of story lines told so far: a client that lost the
connection goes on there with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any, cast

from aiohttp import web
from pydantic import BaseModel

from shirako.actors.actor import Actor
from shirako.api import models, views
from shirako.api.problems import Problem
from shirako.api.tokens import Token, Tokens, TokensUnreadable
from shirako.core.guest import GuestLease
from shirako.core.machine import Key, Record
from shirako.transport.limits import Limits

HEARTBEAT_SECONDS = 10.0
LOG_SECONDS = 0.5
"""How often the story is looked at while handlers run: their lines change no record."""

log = logging.getLogger(__name__)


def watched(
    actor: Actor[Any], key: Key
) -> contextlib.aclosing[AsyncGenerator[Record | None, None]]:
    """`actor.changes(key)`, to be used in an `async with`: it gives its place back at the end."""
    return contextlib.aclosing(cast("AsyncGenerator[Record | None, None]", actor.changes(key)))


class Streams:
    """All open streams of one actor."""

    def __init__(self, actor: Actor[Any], tokens: Tokens, limits: Limits) -> None:
        self._actor = actor
        self._tokens = tokens
        self._limits = limits
        self._open: dict[asyncio.Task[Any], str] = {}
        """Each with the name of its token."""

    async def end(self, _app: web.Application) -> None:
        """End them all: the actor stops, and would wait for them otherwise."""
        for task in self._open:
            task.cancel()

    async def serve(
        self, request: web.Request, key: Key, caller: Token, *, own: bool
    ) -> web.StreamResponse:
        """Stream until there is nothing more to tell. Raises `Problem` when there are too many."""
        self._check_room(caller)
        told = request.headers.get("Last-Event-ID", "")
        first = int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        task = asyncio.ensure_future(self._write(response, key, caller, own, first))
        self._open[task] = caller.name
        try:
            await task
        except ConnectionError:
            pass  # the client went away
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise  # not the stream was ended, but its request
        except Exception:  # the answer has begun: nothing else can be said
            log.exception("%s: a stream broke", self._actor.party.name)
        finally:
            self._open.pop(task, None)
        return response

    def _check_room(self, caller: Token) -> None:
        if list(self._open.values()).count(caller.name) >= self._limits.streams_a_token:
            self._actor.counters["refused.streams"] += 1
            raise Problem(429, "streams", "your token has too many streams open here", retry=True)
        if len(self._open) >= self._limits.streams:
            self._actor.counters["refused.streams"] += 1
            raise Problem(503, "overloaded", "too many streams are open here", retry=True)

    async def _write(
        self, response: web.StreamResponse, key: Key, caller: Token, own: bool, told: int
    ) -> None:
        shown: models.Lease | None = None
        async with contextlib.aclosing(self._wakes(key)) as wakes:
            async for record in wakes:
                if not self._valid(caller):
                    return
                lines = await self._actor.read_ledger(lambda ledger: ledger.story("/".join(key)))
                for line in lines[told:]:
                    told += 1
                    event = models.StoryEvent(line=views.story_line(line), number=told)
                    await _send(response, "story", event, told)
                if record is None:
                    break
                now = views.lease(record, own=own)
                if now != shown:
                    shown = now
                    await _send(response, "lease", models.LeaseEvent(lease=now), told)
                else:
                    await response.write(b": heartbeat\n\n")
                if record.state.final:
                    break
        await response.write(b"event: end\ndata: {}\n\n")

    async def _wakes(self, key: Key) -> AsyncGenerator[GuestLease | None, None]:
        """The record, whenever it may be time to tell something."""
        async with watched(self._actor, key) as changes:
            changed = asyncio.ensure_future(anext(changes))
            record: Any = None
            try:
                while True:
                    pause = LOG_SECONDS if record is not None and record.work else HEARTBEAT_SECONDS
                    await asyncio.wait({changed}, timeout=pause)
                    if changed.done():
                        record = changed.result()
                        changed = asyncio.ensure_future(anext(changes))
                    yield record
            finally:
                changed.cancel()
                await asyncio.gather(changed, return_exceptions=True)

    def _valid(self, caller: Token) -> bool:
        try:
            return self._tokens.holds(caller)
        except TokensUnreadable:
            return False


async def _send(response: web.StreamResponse, name: str, event: BaseModel, told: int) -> None:
    text = f"id: {told}\nevent: {name}\ndata: {event.model_dump_json()}\n\n"
    await response.write(text.encode())
