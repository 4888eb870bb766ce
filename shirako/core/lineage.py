"""Lineages: how an actor's key is replaced while everybody goes on knowing the actor by its first.

An actor is the thumbprint of its first key: reservations, pins and claims name that. Each key may
name the one that follows it, in a signed *succession*; all successions from the first key on, in
order, are its *lineage*. Whoever knows the first key alone can follow a lineage to the key that
signs today. `shirako.lineage` knows how successions are signed and read; this module knows what
may be believed once two lineages of the same actor, or none and one, are held side by side.

There is no time stamp that a thief of an old key could not back-date. So what an old key signed is
judged by when it is shown *first*: the succession that retired the key says until when that may be.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

SUCCESSIONS_MAX = 8
"""Keys that may follow the first one. A token carries its whole lineage, so it is bounded."""


class Succession(Struct, frozen=True, kw_only=True):
    """One verified step of a lineage: from tick `since` on the actor's key is `x`."""

    number: int
    """1 for the step away from the first key."""
    x: str
    since: int
    until: int
    """Statements by earlier keys that nobody has seen before are believed up to this tick."""


class Lineage(Struct, frozen=True, kw_only=True):
    """A verified line of successions."""

    identity: str
    """Thumbprint of the first key: who the actor is."""
    x: str
    """The first key."""
    successions: tuple[Succession, ...]
    tokens: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key that it leads to."""
        return self.successions[-1].x

    @property
    def since(self) -> int:
        """The tick from which on that is the actor's key."""
        return self.successions[-1].since


class LineageInvalid(Exception):
    """What was shown is no lineage; the message says why."""


class Disowned(Exception):
    """A key that is not, or no more, the actor's speaks for it."""

    kind: ClassVar[str]
    """Short name of what is wrong, for counters and refusals."""


class Retired(Disowned):
    """The key was replaced by a later one."""

    kind = "retired"


class Forked(Disowned):
    """Two keys claim to follow the same one."""

    kind = "forked"


def check_speaker(known: Lineage | None, shown: tuple[str, ...]) -> None:
    """Raise `Disowned` unless who shows the lineage `shown` may speak for the actor.

    `known`: the longest that was seen of this actor; None: never one.
    """
    if known is None:
        return
    _check_fork(known, shown)
    if len(shown) < len(known.tokens):
        newer = known.successions[len(shown)]
        raise Retired(
            f"{_key(shown)} of {known.identity} was replaced by key {newer.number} at tick "
            f"{newer.since}; start the actor with its current key file"
        )


def check_statement(known: Lineage | None, shown: tuple[str, ...], now: int) -> None:
    """Raise `Disowned` when a statement comes too late for the key that signed it.

    For statements that were not seen before tick `now`. What they say of their own age is not
    looked at: who has an old key writes what suits him.
    """
    if known is None:
        return
    _check_fork(known, shown)
    if len(shown) >= len(known.tokens):
        return
    newer = known.successions[len(shown)]
    if now > newer.until:
        raise Retired(
            f"signed with {_key(shown)} of {known.identity}, which was replaced at tick "
            f"{newer.since}; what it signed was taken until tick {newer.until}"
        )


def grows(known: Lineage | None, shown: tuple[str, ...]) -> bool:
    """Whether `shown`, which `check_speaker` let pass, tells of more successions than `known`."""
    return len(shown) > (len(known.tokens) if known is not None else 0)


def _check_fork(known: Lineage, shown: tuple[str, ...]) -> None:
    for number, (first, other) in enumerate(zip(known.tokens, shown, strict=False), 1):
        if first != other:
            raise Forked(
                f"{known.identity} has two keys {number}: the one that was seen first stays; if "
                "the other is the right one, pin the actor's public key file again"
            )


def _key(shown: tuple[str, ...]) -> str:
    return f"key {len(shown)}" if shown else "the first key"
