"""What may go wrong in a run, how often, and what did.

Every place where something may go wrong asks `strike(kind, place)`. The answer depends on the
seed, the kind, the place and on how often it was asked there before: faults elsewhere do not shift
it. So an injection has a name, `kind@place#n`, that means the same thing in a replay which leaves
others out; a run that is allowed a subset of its own injections is what shrinking looks for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from shirako.simulation.chance import Stream, gap, stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Rates, by kind: the chance that one opportunity is hit. All zero: nothing goes wrong.

    The opportunities of each kind are named beside it.
    """

    request_lost: float = 0.0
    """An envelope."""
    answer_lost: float = 0.0
    """An acknowledgement: the envelope was taken, and its sender does not know."""
    late: float = 0.0
    """An envelope: it overtakes nothing and is overtaken, perhaps by its own repetition."""
    duplicated: float = 0.0
    """An envelope: a copy comes again, soon or much later."""
    partition: float = 0.0
    """A minute of a pair of actors: they do not reach each other, or one not the other."""
    commit_failed: float = 0.0
    """A commit: nothing of it is stored."""
    disk_full: float = 0.0
    """A minute of an actor: every commit fails for a while."""
    slow_disk: float = 0.0
    """A commit: it takes seconds."""
    crash: float = 0.0
    """A minute of an actor: it ends between any two of its steps soon after."""
    crash_before_commit: float = 0.0
    """A commit: it ends, and nothing of it is stored."""
    crash_after_commit: float = 0.0
    """A commit: it is stored, and nobody hears of it."""
    commit_unsure: float = 0.0
    """A commit: it is stored, and the actor is told that it failed."""
    backlog: float = 0.0
    """A site: what it has to say to brokers piles up, and it starts anew before it can say it."""
    takeover: float = 0.0
    """An actor: it loses its ledger for a while, and other copies of it are started."""
    key_replaced: float = 0.0
    """An actor: its key is replaced, once or more often, and those before are stolen at times."""
    restored: float = 0.0
    """An actor: its ledger is lost, and it comes back from an older backup, held."""
    restart: float = 0.0
    """A minute of an actor: it is stopped in an orderly way, and started again."""
    clock_wrong: float = 0.0
    """An actor: its clock is set wrong from the beginning, within the declared skew."""
    clock_steps: float = 0.0
    """A minute of an actor: its clock jumps a little, within the declared skew."""
    clock_jumps: float = 0.0
    """A minute of an actor: its clock jumps by up to a day, and is put right later."""
    handler_fails: float = 0.0
    """A program on a node: it fails at its first step."""
    handler_half: float = 0.0
    """A program on a node: it does some of its steps, and fails."""
    handler_hangs: float = 0.0
    """A program on a node: it never ends."""
    handler_late: float = 0.0
    """A program on a node: it is so slow that nobody waits for it any more, and it goes on."""
    left_behind: float = 0.0
    """A teardown: something of the guest can not be removed, which its check finds."""
    node_dies: float = 0.0
    """A minute of a node: it is unreachable, for a while or until it is repaired."""
    node_reboots: float = 0.0
    """A minute of a node: what runs on it ends."""
    directory_out: float = 0.0
    """A minute of a directory: it does not answer for a while."""
    guest_vanishes: float = 0.0
    """A guest: from some moment on nothing of it answers any more."""
    nonsense: float = 0.0
    """A minute of a guest: it sends what no honest guest would."""
    replayed: float = 0.0
    """An envelope: somebody who has listened sends it again, minutes later."""
    cheating: float = 0.0
    """A broker: it sells what it has not got, and forges what it can not sell."""


NO_FAULTS = Faults()

ALL_FAULTS = Faults(
    request_lost=0.04,
    answer_lost=0.04,
    late=0.03,
    duplicated=0.04,
    partition=0.04,
    commit_failed=0.006,
    disk_full=0.01,
    slow_disk=0.01,
    crash=0.06,
    crash_before_commit=0.004,
    crash_after_commit=0.004,
    commit_unsure=0.004,
    backlog=0.1,
    takeover=0.06,
    key_replaced=0.2,
    restored=0.08,
    restart=0.01,
    clock_wrong=0.5,
    clock_steps=0.03,
    clock_jumps=0.02,
    handler_fails=0.04,
    handler_half=0.04,
    handler_hangs=0.02,
    handler_late=0.03,
    left_behind=0.03,
    node_dies=0.008,
    node_reboots=0.008,
    directory_out=0.02,
    guest_vanishes=0.08,
    nonsense=0.1,
    replayed=0.01,
    cheating=0.05,
)
"""What `--faults` switches on."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One thing that went wrong."""

    number: int
    """Its place in the order of this run's injections, from 1."""
    kind: str
    name: str
    """What it is in every replay: `kind@place#n`."""
    at: float


@dataclass(slots=True)
class _Place:
    """The opportunities of one kind at one place."""

    name: str
    rate: float
    passed: int = 0
    hit: int = 0
    """The opportunity that is hit next."""


class Injector:
    """Decides what goes wrong, counts it, and remembers its name."""

    def __init__(
        self,
        seed: int,
        faults: Faults,
        only: frozenset[str] | None,
        told: Callable[[Injection], None],
        now: Callable[[], float],
    ) -> None:
        """`only`: names of the injections that are allowed; None: all. `told` hears of each."""
        self.injected: list[Injection] = []
        self.counts: Counter[str] = Counter()
        self.over = False
        """No faults any more: the run comes to its end."""
        self._seed = seed
        self._faults = faults
        self._only = only
        self._told = told
        self._now = now
        self._places: dict[tuple[str, str], _Place] = {}

    def strike(self, kind: str, place: str) -> Stream | None:
        """A stream to choose the details from when this opportunity is hit; None when it is not."""
        known = self._places.get((kind, place))
        if known is None:
            known = self._place(kind, place)
        known.passed += 1
        if known.passed != known.hit:
            return None
        name = f"{known.name}#{known.passed}"
        known.hit += gap(self._seed, name, known.rate)
        if self.over or (self._only is not None and name not in self._only):
            return None
        injection = Injection(len(self.injected) + 1, kind, name, self._now())
        self.injected.append(injection)
        self.counts[kind] += 1
        self._told(injection)
        return stream(self._seed, name)

    def _place(self, kind: str, place: str) -> _Place:
        rate: float = getattr(self._faults, kind)
        name = f"{kind}@{place}"
        made = _Place(name, rate, hit=gap(self._seed, name, rate) if rate > 0.0 else -1)
        self._places[kind, place] = made
        return made
