"""Many seeds on all cores, in order: what was found does not depend on how many worked on it."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from shirako.clock import RealClock
from shirako.simulation.facts import Violation
from shirako.simulation.faults import Faults
from shirako.simulation.run import Outcome, run
from shirako.simulation.shrink import shrink

CHUNK = 8
"""Seeds that a process takes at a time."""
COLLECT_EVERY = 16
"""Runs between two collections of garbage: each leaves cycles of tasks and actors behind."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of one run."""

    seed: int
    events: int
    lives: int
    faults: Counter[str]
    seen: Counter[str]
    violations: tuple[Violation, ...]
    digest: str


@dataclass(slots=True)
class Report:
    """What a campaign has found so far."""

    first: int
    seeds: int = 0
    events: int = 0
    lives: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    """How often something came to pass that no single fault brings about."""
    violating: list[Summary] = field(default_factory=list)
    seconds: float = 0.0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, summary: Summary) -> None:
        self.seeds += 1
        self.events += summary.events
        self.lives += summary.lives
        self.faults.update(summary.faults)
        self.seen.update(summary.seen)
        self._digest.update(summary.digest.encode())
        if summary.violations:
            self.violating.append(summary)

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all runs, in the order of their seeds."""
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Found:
    """A violation with the shortest run that shows it."""

    seed: int
    violation: Violation
    faults: tuple[str, ...]
    """Names of the injections that it takes."""
    trace: tuple[str, ...]
    story: tuple[str, ...]


def campaign(
    seeds: range,
    faults: Faults,
    *,
    jobs: int,
    seconds: float | None = None,
    progress: Callable[[Report], None] = lambda _report: None,
) -> Report:
    """Run all seeds, or as many as fit into `seconds`; Ctrl-C ends with what was done so far."""
    report = Report(seeds.start)
    clock = RealClock()
    started = clock.milliseconds()
    results = _alone(seeds, faults) if jobs == 1 else _together(seeds, faults, jobs)
    with suppress(KeyboardInterrupt), closing(results):
        for summary in results:
            report.add(summary)
            report.seconds = (clock.milliseconds() - started) / 1000
            progress(report)
            if seconds is not None and report.seconds >= seconds:
                break
    report.seconds = (clock.milliseconds() - started) / 1000
    return report


def explain(summary: Summary, faults: Faults) -> Found:
    """Shrink the first violation of a run."""
    shrunk = shrink(run(summary.seed, faults), faults)
    outcome, violation = shrunk.outcome, shrunk.violation
    return Found(
        seed=summary.seed,
        violation=violation,
        faults=tuple(injection.name for injection in outcome.injected),
        trace=tuple(map(str, outcome.trace)),
        story=tuple(outcome.story(violation.lease)),
    )


def _alone(seeds: range, faults: Faults) -> Generator[Summary, None, None]:
    for seed in seeds:
        yield _one(seed, faults)


def _together(seeds: range, faults: Faults, jobs: int) -> Generator[Summary, None, None]:
    """The same from several processes, in the same order."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    work = ((chunk, faults) for chunk in chunks)
    # forking is quick, and safe only where there is nothing but this thread
    method = "fork" if threading.active_count() == 1 and sys.platform == "linux" else "spawn"
    pool = multiprocessing.get_context(method).Pool(jobs, _begin)
    try:
        for summaries in pool.imap(_chunk, work):
            yield from summaries
    finally:
        pool.terminate()
        pool.join()


def _begin() -> None:
    """The parent decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()


def _chunk(work: tuple[range, Faults]) -> list[Summary]:
    seeds, faults = work
    return [_one(seed, faults) for seed in seeds]


def _one(seed: int, faults: Faults) -> Summary:
    outcome = _collected(seed, faults)
    return Summary(
        seed=seed,
        events=outcome.events,
        lives=outcome.lives,
        faults=outcome.faults,
        seen=outcome.seen,
        violations=outcome.violations,
        digest=outcome.digest,
    )


def _collected(seed: int, faults: Faults) -> Outcome:
    """A run without a collection of garbage in its midst."""
    gc.disable()
    try:
        return run(seed, faults)
    finally:
        gc.enable()
        if seed % COLLECT_EVERY == 0:
            gc.collect()


def cores() -> int:
    """How many processes work at the same time on this machine."""
    return len(os.sched_getaffinity(0))
