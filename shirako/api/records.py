"""What the routes of all roles do alike with records of leases: find, list, tell their story."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from shirako.actors.actor import Actor
from shirako.actors.role import Refused, Role
from shirako.api import models, views
from shirako.api.problems import Problem
from shirako.api.routes import Call, page
from shirako.core.machine import Key, Record

R = TypeVar("R", bound=Record)
V = TypeVar("V", bound=BaseModel)


def key_of(actor: Actor[Any], call: Call) -> Key:
    """The lease that a path names by holder and id. Raises `Problem`."""
    key = (call.part("holder"), call.part("id"))
    if key not in actor.role.leases:
        raise Problem(404, "not_found", "there is no such lease")
    return key


def record_of(role: Role[R], key: Key) -> R:
    """The record within a turn: it may have been forgotten since it was looked up."""
    record = role.leases.get(key)
    if record is None:
        raise Refused("unknown", "there is no such lease any more")
    return record


def select(
    actor: Actor[Any], call: Call, view: Callable[[Any], V]
) -> tuple[tuple[V, ...], str | None]:
    """A page of a site's or broker's leases, and where the next one begins."""
    query: models.PeerLeasePage = call.query
    found = (
        ("/".join(key), record)
        for key, record in actor.role.leases.items()
        if (not query.state or record.state.value in query.state)
        and query.slice in (None, record.slice)
        and query.id in (None, record.id)
    )
    return page(found, query, view)


async def story_of(actor: Actor[Any], key: Key) -> models.Story:
    """All that happened to one lease here, oldest first."""
    entries = await actor.read_ledger(lambda ledger: ledger.story("/".join(key)))
    return models.Story(story=tuple(map(views.story_line, entries)))
