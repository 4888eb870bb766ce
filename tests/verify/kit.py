"""What a variant of the kit is, and the register of all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from shirako.core.claims import Chain, Ticket

BAD, UNREADABLE = 1, 2


class Variant(NamedTuple):
    """One paper that is wrong in one way, which is its name."""

    name: str
    make: Callable[[], Any]
    """What is in its file: text as it is, all else as JSON."""
    reasons: tuple[str, ...]
    """What the refusal has to say: what is wrong, and where."""
    code: str = ""
    """A ticket's: what a site refuses to redeem it with."""
    status: int = BAD


class AuditVariant(NamedTuple):
    """One ledger whose audit record was changed in one way."""

    name: str
    spoil: Callable[[Path], None]
    """Changes the ledger that it is given."""
    reasons: tuple[str, ...]
    needs_head: bool = False
    """It can only be told by who noted the head earlier."""


TICKETS: dict[str, Variant] = {}
PAPERS: dict[str, Variant] = {}
AUDITS: dict[str, AuditVariant] = {}

MakeTicket = Callable[[], Chain | Ticket | list[Any]]


def forged_ticket(code: str, *reasons: str) -> Callable[[MakeTicket], MakeTicket]:
    """Registers a ticket under its function's name; a chain is a ticket of one chain."""

    def register(make: MakeTicket) -> MakeTicket:
        name = make.__name__
        _add(TICKETS, name, Variant(name, make, reasons, code))
        return make

    return register


def forged(*reasons: str, status: int = BAD) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a paper under its function's name."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        name = make.__name__
        _add(PAPERS, name, Variant(name, make, reasons, status=status))
        return make

    return register


def spoiled(
    *reasons: str, needs_head: bool = False
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Registers a way to spoil a ledger under its function's name."""

    def register(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
        name = spoil.__name__
        _add(AUDITS, name, AuditVariant(name, spoil, reasons, needs_head))
        return spoil

    return register


def _add(register: dict[str, Any], name: str, variant: Any) -> None:
    if name in register:
        raise ValueError(f"two variants are called {name}")
    register[name] = variant


def chains_of(told: Any) -> Ticket:
    """A variant's ticket as messages carry it."""
    if told and isinstance(told[0], str):
        return (tuple(told),)
    return tuple(tuple(chain) for chain in told)
