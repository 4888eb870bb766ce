"""People who lease: what each of them asked for, was told, and got."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from bench.faulting.acts import Act, Acts
from bench.faulting.stand import TYPE, Stand
from shirako.api.models import ExtendRequest, Lease, LeaseRequest
from shirako.client import Client, Problem, Unreachable

PAUSE_SECONDS = 0.25
REFUSED_PAUSE_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
"""How long an actor may go without an answer that is more than "try again later"."""
END_SECONDS = 240.0
"""How long a lease may take to end once it was closed or its term is over."""
LONG_SECONDS = 1800
"""Term of what is closed by hand: capacity that is not given back then would be missed."""

HELD = ("Active", "ExtendingTicket", "ActiveTicketed", "ExtendingLease")
_RANKS = {
    state: rank
    for rank, states in enumerate(
        (
            ("Nascent",),
            ("Ticketing",),
            ("Ticketed",),
            ("Redeeming",),
            ("Leased",),
            ("Joining",),
            HELD,
            ("Leaving",),
            ("Cancelling", "CloseWait"),
            ("Closed", "Failed"),
        )
    )
    for state in states
}

HONEST = (
    r"\d+ of \d+ units are free during the whole term",
    r"the units could not be set up: .",
    r"no unit joined; .",
    r"no units came free before the redeem's deadline",
    r"\d+ units of \S+ are free now",
)
"""Reasons that a lease may end for although its guest did not want it to: each follows from a
fault of this bench, and says which."""
HONEST_IF_SHORT = (
    r"the term ends",
    r"the term is over",
    r"the ticket's term is over",
    r"the term asked for is over",
    r"the term was over before the site gave a lease",
    r"the broker did not answer before the term asked for was over",
    r"the term would be over before it begins",
)
"""The same, where the term is no longer than a fault may last."""

Plan = Literal["hold", "extend", "expire", "extend and expire", "change one's mind"]
PLANS: tuple[Plan, ...] = ("hold", "hold", "extend", "expire", "extend and expire") * 2 + (
    "change one's mind",
)

T = TypeVar("T")


@dataclass(slots=True)
class Life:
    """One lease: the plan for it, and what its guest was told."""

    number: int
    plan: Plan
    units: int
    slice: str
    seconds: int
    """Length of the term."""
    id: str = ""
    """Empty until the request was accepted."""
    end: datetime | None = None
    """The latest end that was promised."""
    state: str = ""
    """The latest state told."""
    final: bool = False
    reason: str = ""
    closed: bool = False
    """The guest has asked for the end."""
    active_after: float | None = None
    """Seconds from request to Active, as the guest saw it."""
    closed_after: float | None = None
    """Seconds from close to final."""
    nodes: set[str] = field(default_factory=set)
    """Where it was told to be, while it was held."""
    told: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """What was promised and not kept."""

    @property
    def lived(self) -> bool:
        """Whether it came to more than a refusal."""
        return self.active_after is not None or self.closed

    @property
    def key(self) -> str:
        return f"life-{self.number}"

    def tell(self, text: str) -> None:
        self.told.append(f"{time.strftime('%H:%M:%S')} {text}")

    def miss(self, text: str) -> None:
        self.tell(f"LOST: {text}")
        self.lost.append(text)

    def hear(self, lease: Lease) -> None:
        """DURABLE: what was told once stays true."""
        if lease.state != self.state:
            self.tell(f"{lease.state} {lease.reason}".strip())
        if _RANKS[lease.state] < _RANKS.get(self.state, 0):
            self.miss(f"was {self.state}, and is {lease.state} again")
        if self.final and (lease.state, lease.final) != (self.state, True):
            self.miss(f"was over as {self.state}, and is {lease.state}")
        if self.end is not None and lease.end < self.end:
            self.miss(f"was promised until {self.end:%H:%M:%S}, and ends {lease.end:%H:%M:%S}")
        held = len(lease.held)
        if lease.state in HELD and not lease.degraded and not held == lease.units == self.units:
            self.miss(f"{self.units} units were asked for and {held} are held")
        self.nodes |= {unit.name for unit in lease.held}
        self.state, self.final, self.reason = lease.state, lease.final, lease.reason
        self.end = max(self.end or lease.end, lease.end)
        if lease.final:
            self._judge()

    def _judge(self) -> None:
        """Whether the end is the one that was asked for, or says honestly why it is not."""
        if self.lost:
            return
        short = self.seconds < LONG_SECONDS
        wanted = self.closed or (short and self.reason.startswith("the term "))
        if wanted and self.state == "Closed":
            return
        allowed = HONEST + (HONEST_IF_SHORT if short else ())
        if not any(re.match(pattern, self.reason) for pattern in allowed):
            self.miss(f"ended as {self.state} for no good reason: {self.reason!r}")


def _account(lease: str) -> str:
    """What is noted beside the account of a lease on a node."""
    return f"Shirako guest of lease {lease}"


class Broken(Exception):
    """This life can not be gone on with; its `lost` says why."""


class People:
    """Several workers, one lease of each at a time."""

    def __init__(
        self, stand: Stand, acts: Acts, seed: int, terms: tuple[int, int], client: Client
    ) -> None:
        """`terms`: least and most seconds of leases that are to expire."""
        self.lives: list[Life] = []
        self.retries = 0
        """Answers that said "later", and calls without an answer."""
        self.faults: list[str] = []
        """Answers that no actor should give, such as a 500."""
        self._stand = stand
        self._acts = acts
        self._seed = seed
        self._terms = terms
        self._client = client

    async def live(self, plan: Plan | None = None) -> Life:
        """One whole life; nothing is raised, all is in the life.

        With a plan it is a life of one unit; otherwise dice decide.
        """
        number = len(self.lives)
        dice = random.Random(f"{self._seed}/{number}")
        life = self._planned(number, dice, plan)
        self.lives.append(life)
        try:
            await self._live(life, dice)
        except Broken:
            pass
        except Problem as problem:
            life.miss(f"refused ({problem.status} {problem.kind}): {problem.detail}")
        if not life.lived:
            await asyncio.sleep(REFUSED_PAUSE_SECONDS)
        return life

    def _planned(self, number: int, dice: random.Random, plan: Plan | None) -> Life:
        chosen: Plan = dice.choice(PLANS) if plan is None else plan
        short = chosen in ("expire", "extend and expire")
        # some share a slice, whose first unit makes its entries and whose last one removes them
        shared = dice.random() < 0.4
        return Life(
            number=number,
            plan=chosen,
            units=dice.choice((1, 1, 1, 2)) if plan is None else 1,
            slice="team" if shared else f"one-{number}",
            seconds=dice.randint(*self._terms) if short else LONG_SECONDS,
        )

    async def _live(self, life: Life, dice: random.Random) -> None:
        begun = time.monotonic()
        lease = await self._request(life)
        if life.plan == "change one's mind":
            await asyncio.sleep(dice.uniform(0, 1.5))
            await self._close(life)
            return
        while not (lease.final or lease.state in HELD or lease.state in ("Leaving", "CloseWait")):
            self._in_time(life, begun + END_SECONDS + life.seconds, "is neither set up nor over")
            lease = await self._look(life)
        if lease.state in HELD:
            life.active_after = time.monotonic() - begun
            await self._check_held(life, lease)
            await asyncio.sleep(dice.uniform(0, 2))
            if life.plan in ("extend", "extend and expire"):
                await self._extend(life, 600 if life.plan == "extend" else self._terms[0] // 2)
                await asyncio.sleep(dice.uniform(0, 1))
        if life.plan in ("hold", "extend") and not life.final:
            await self._close(life)
        else:
            await self._await_end(life)
        await self._check_left(life)

    # What a person does ---------------------------------------------------------------------------

    async def _request(self, life: Life) -> Lease:
        wanted = LeaseRequest(
            slice=life.slice,
            type=TYPE,
            units=life.units,
            duration=life.seconds,
            ssh_keys=(self._stand.guest_key.public,),
        )
        self._acts.tell(Act(self._next_free()))
        lease = await self._insist(
            life, lambda: self._client.request_lease(wanted, key=f"{self._seed} {life.key}")
        )
        life.id = lease.id
        life.tell(f"accepted as {lease.id}: {life.units} of slice {life.slice}")
        life.hear(lease)
        return lease

    def _next_free(self) -> tuple[str, ...]:
        """Units are given out in order: the first that no lease is known to be on."""
        used = {node for life in self.lives if not life.final for node in life.nodes}
        return tuple(node.name for node in self._stand.nodes if node.name not in used)[:1]

    async def _look(self, life: Life) -> Lease:
        await asyncio.sleep(PAUSE_SECONDS)
        lease = await self._insist(life, lambda: self._client.lease(life.id))
        life.hear(lease)
        return lease

    async def _extend(self, life: Life, seconds: int) -> None:
        assert life.end is not None
        wanted = ExtendRequest(end=life.end + timedelta(seconds=seconds))
        self._acts.tell(Act(tuple(life.nodes)))
        try:
            answer = await self._insist(life, lambda: self._client.extend(life.id, wanted))
        except Problem as problem:
            if problem.kind not in ("refused", "closed", "end"):
                raise
            life.tell(f"not extended ({problem.kind}): {problem.detail}")
            return
        while answer.pending:
            lease = await self._look(life)
            if lease.answer is None:
                life.miss("the answer to an extension is forgotten")
                return
            answer = lease.answer
        if answer.refused:
            life.tell(f"not extended: {answer.refused}")
            return
        life.tell(f"extended until {answer.new_end:%H:%M:%S}")
        life.end = max(life.end, answer.new_end)

    async def _close(self, life: Life) -> None:
        life.closed = True
        self._acts.tell(Act(tuple(life.nodes)))
        life.hear(await self._insist(life, lambda: self._client.close(life.id, "done")))
        begun = time.monotonic()
        await self._await_end(life)
        life.closed_after = time.monotonic() - begun

    async def _await_end(self, life: Life) -> None:
        assert life.end is not None
        deadline = time.monotonic() + END_SECONDS
        if not life.closed:
            deadline += max(0.0, life.end.timestamp() - time.time())
        while not life.final:
            self._in_time(life, deadline, "does not end")
            await self._look(life)

    def _in_time(self, life: Life, deadline: float, what: str) -> None:
        if time.monotonic() > deadline:
            life.miss(f"still {life.state}: it {what}")
            raise Broken

    async def _check_held(self, life: Life, lease: Lease) -> None:
        """A lease that is told to be Active is so on its nodes."""
        missing = await asyncio.to_thread(self._missing, lease)
        if missing and (await self._look(life)).state in HELD:
            life.miss(f"is Active, and yet {missing}")

    async def _check_left(self, life: Life) -> None:
        """CLEAN: where the site has given its word that all is gone, it is."""
        proofs = await self._insist(life, lambda: self._client.proofs(life.id))
        if proofs.receipt and "teardown failed" not in life.reason:
            for what in await asyncio.to_thread(self._left, life):
                life.miss(f"is over by the site's word, and yet {what}")

    def _left(self, life: Life) -> list[str]:
        found = []
        for name in sorted(life.nodes):
            root = self._root(name)
            if _account(life.id) in (root / "etc" / "passwd").read_text():
                found.append(f"{name} has an account of it")
            found += [
                f"{name} has a file of it in {folder}"
                for folder in ("tmp", "var/tmp", "dev/shm")
                if (root / folder / f"of-{life.id}").exists()
            ]
        return found

    def _root(self, node: str) -> Path:
        root = self._stand.node(node).root
        assert root is not None
        return root

    def _missing(self, lease: Lease) -> str:
        for unit in lease.held:
            if _account(lease.id) not in (self._root(unit.name) / "etc" / "passwd").read_text():
                return f"{unit.name} has no account of it"
        return ""

    async def _insist(self, life: Life, call: Callable[[], Awaitable[T]]) -> T:
        """The answer, asked for again while there is none or it is "later"."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await call()
            except Unreachable as error:
                why = str(error)
            except Problem as problem:
                why = f"{problem.status} {problem.kind}: {problem.detail}"
                if problem.status >= 500 and problem.status != 503:
                    self.faults.append(f"{life.key} ({life.id}) was answered {why}")
                elif problem.status == 404:
                    life.miss("what was accepted is not known any more")
                    raise Broken from problem
                elif problem.status != 503 and problem.kind != "busy":
                    raise
            self.retries += 1
            if time.monotonic() > deadline:
                life.miss(f"no answer within {PATIENCE_SECONDS:g} s; the last: {why}")
                raise Broken
            await asyncio.sleep(PAUSE_SECONDS)
