"""Messages of whole lives of leases, each with what its receiver knew when it came."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from shirako.actors.role import Role
from shirako.core import messages
from shirako.core.messages import Message
from shirako.core.terms import Term
from tests.core.cast import open_broker, open_guest, open_site
from tests.fuzz.tokens import opened
from tests.scenarios.stage import Stage

UNITS = ("n1", "n2", "n3", "n4")
_OPEN: dict[str, Callable[[], Role[Any]]] = {
    "site": lambda: open_site(UNITS),
    "broker": open_broker,
    "guest": open_guest,
}


@dataclass(frozen=True)
class Situation:
    """A message under way: what its receiver has in its ledger, and the hour."""

    receiver: str
    sender: str
    now: int
    ledger: tuple[tuple[str, str, bytes], ...]
    says: Any
    """The message's JSON, with open tokens."""

    def role(self) -> Role[Any]:
        """The receiver, as it is started from its ledger."""
        return loaded(self.receiver, self.ledger)


def loaded(name: str, ledger: tuple[tuple[str, str, bytes], ...]) -> Role[Any]:
    """An actor's role, from what was written of it."""
    role = _OPEN[name]()
    for kind, key, body in ledger:
        role.load(kind, key, body)
    role.loaded()
    return role


class _Recorder(Stage):
    def __init__(self) -> None:
        super().__init__(UNITS)
        self.situations: list[Situation] = []

    def _receive(self, sender: str, receiver: str, message: Message) -> Any:
        says = opened(json.loads(messages.encode(message)))
        ledger = tuple(self.ledgers[receiver].load())
        self.situations.append(Situation(receiver, sender, self.now, ledger, says))
        return super()._receive(sender, receiver, message)


@cache
def situations() -> tuple[Situation, ...]:
    """Of a lease that is extended and closed, one that ends with its term, one that is refused,
    one that is given up, a set-up and a teardown that fail, and a unit that is lost."""
    life = _Recorder()
    life.delegate(4, Term(90, 10_000))
    life.request("whole", 2, Term(100, 200), configuration={"color": "blue"})
    life.settle()
    life.tick(120)
    life.settle()
    life.extend("whole", 300, 250)
    life.settle()
    life.lost("n1", "it does not answer")
    life.settle()
    life.request("refused", 9, Term(120, 200))
    life.settle()
    life.close("whole")
    life.settle()
    life.request("later", 1, Term(5_000, 6_000))
    life.settle()
    life.close("later")
    life.settle()
    life.failing = {("setup", "n2"): "no disk", ("teardown", "n3"): "no answer"}
    life.request("short", 1, Term(120, 140))
    life.settle()
    life.tick(400)
    life.settle()
    return tuple(life.situations)
