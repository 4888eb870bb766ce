"""One seed, one run: the same call gives the same outcome, to the byte."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shirako.core import account
from shirako.simulation.chance import stream
from shirako.simulation.checks import all_checks
from shirako.simulation.facts import Facts, Line, Violation
from shirako.simulation.faults import ALL_FAULTS, Faults, Injection
from shirako.simulation.loop import Stuck, VirtualLoop
from shirako.simulation.sightings import Sightings
from shirako.simulation.signatures import remembered
from shirako.simulation.world import World

log = logging.getLogger("shirako")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run."""

    seed: int
    events: int
    """Lines of the trace."""
    lives: int
    """Leases that were in use and have come to their end."""
    faults: Counter[str]
    seen: Counter[str]
    """How often something came to pass that no single fault brings about."""
    injected: tuple[Injection, ...]
    violations: tuple[Violation, ...]
    digest: str
    """SHA-256 of the trace."""
    trace: tuple[Line, ...]

    def story(self, lease: str) -> list[str]:
        """The lines of the trace that concern one lease, and the injected faults."""
        return [str(line) for line in self.trace if line.lease == lease]


class _Broken(logging.Handler):
    """What actors log with a traceback: code of ours that broke."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(logging.ERROR)
        self._facts = facts

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self._facts.broke(record.name, f"{record.getMessage()}: {error!r}")


@contextmanager
def _volumes(seed: int) -> Iterator[None]:
    """No run lasts long enough to fill a volume of an account: in most runs they are smaller."""
    usual = account.VOLUME_ENTRIES_MIN
    account.VOLUME_ENTRIES_MIN = stream(seed, "volumes").choice((1, 3, usual))
    try:
        yield
    finally:
        account.VOLUME_ENTRIES_MIN = usual


def run(
    seed: int,
    faults: Faults = ALL_FAULTS,
    *,
    only: frozenset[str] | None = None,
    memory: bool = True,
) -> Outcome:
    """Run the world of this seed to its end.

    `only`: names of the injections that may happen; `memory`: whether signatures of this run's
    own keys are taken as verified.
    """
    loop = VirtualLoop()
    with remembered(memory=memory), _volumes(seed):
        world = World(loop, seed, faults, only)
        world.facts.watch([*all_checks(world), Sightings(world), *world.persons])
        handler = _Broken(world.facts)
        level, propagate = log.level, log.propagate
        log.addHandler(handler)
        log.setLevel(logging.ERROR)
        log.propagate = False
        try:
            loop.run_until_complete(world.run())
        except Stuck as stuck:
            world.facts.violated("ENDS", "", str(stuck))
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate
            loop.close()
    facts = world.facts
    return Outcome(
        seed=seed,
        events=len(facts.trace),
        lives=world.lives,
        faults=world.injector.counts,
        seen=facts.seen,
        injected=tuple(world.injector.injected),
        violations=tuple(facts.violations),
        digest=facts.digest(),
        trace=tuple(facts.trace),
    )
