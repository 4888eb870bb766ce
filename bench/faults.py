"""Leases on real nodes while everything breaks: what is lost, done twice, or left different?

Three actors, each in its own process, real sshd nodes and a real slapd. Several guests lease at
once, extend, close, let leases expire; meanwhile, out of a seeded schedule, actors are killed with
`kill -9` and stopped, connections between them and to the directory are cut, hung, slowed, and lose
answers, the disk of all ledgers fills up, nodes die, hang and lose their network, the directory
stops and hangs. An operator has failed teardowns tried again and mended nodes handed out.

Then everything is mended, all leases end, and it is checked, from outside and in the ledgers:
`lost` counts promises that were not kept, `done_twice` what took effect twice, `differences` what
is left on nodes and in the directory or is not the same in all three ledgers. All must be 0.

Reference in the same run: lease lives on the same stand before anything is broken. Needs root.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.faulting.acts import Acts
from bench.faulting.breaking import Breaker
from bench.faulting.checking import Books, Findings, check, copy_books
from bench.faulting.disk import NoDisk
from bench.faulting.operating import Operator
from bench.faulting.people import Life, People, Plan
from bench.faulting.stand import ACTORS, Stand
from bench.faulting.watching import NodeWatch, changes, survey
from bench.rig import report
from shirako.api.models import CalendarWindow
from shirako.client import Client, Problem, Unreachable
from shirako.demo.processes import NotUp
from shirako.testbed import TestbedError

SETTLE_SECONDS = 120.0
RESTART_SECONDS = 1800
EXPECTED = (TestbedError, NotUp, NoDisk)
"""What may keep a run from being done, told without a traceback."""
COMMIT_REFUSED = "nothing of this turn is stored"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    kills: int
    lives: int
    nodes: int
    workers: int
    undisturbed: int
    """Lives of the reference."""
    restart_leases: int
    seconds: float
    """No round of faults begins later than this."""
    pace: float
    """Factor of the pauses between faults."""
    terms: tuple[int, int]
    """Least and most seconds of leases that are to expire."""


FULL = Size(
    kills=100,
    lives=100,
    nodes=10,
    workers=6,
    undisturbed=8,
    restart_leases=100_000,
    seconds=1500,
    pace=1.0,
    terms=(14, 22),
)
QUICK = Size(
    kills=6,
    lives=10,
    nodes=8,
    workers=5,
    undisturbed=3,
    restart_leases=0,
    seconds=60,
    pace=0.4,
    terms=(8, 12),
)


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


class Run:
    """One run on one stand."""

    def __init__(self, stand: Stand, size: Size, seed: int) -> None:
        self.stand = stand
        self.size = size
        self.people: People
        self.acts = Acts()
        self.breaker = Breaker(stand, self.acts, seed, size.pace, tell)
        self.watch = NodeWatch(stand)
        self.operator: Operator
        self.undisturbed: list[Life] = []
        self.disturbed: list[Life] = []
        self.seconds = 0.0
        self._seed = seed

    async def run(self) -> Findings:
        clean = await asyncio.to_thread(survey, self.stand)
        async with (
            self.stand.client("guest") as guest,
            self.stand.client("site") as site,
            self.stand.client("broker") as broker,
        ):
            self.people = People(self.stand, self.acts, self._seed, self.size.terms, guest)
            self.operator = Operator(site, tell)
            watching = asyncio.create_task(self.watch.run())
            try:
                await self._live()
                unsettled = await self._settle(guest, site, broker)
                unsettled += await reconciled(site)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        left = changes(clean, await asyncio.to_thread(survey, self.stand))
        for actor in self.stand.actors.values():
            await actor.stop()
        return self._checked([*unsettled, *left])

    # Living -----------------------------------------------------------------------------------

    async def _live(self) -> None:
        plans: tuple[Plan, ...] = ("hold",)
        quiet = self.size.undisturbed
        tell(f"{quiet} lives without faults")
        self.undisturbed = await self._in_turns(lambda n: n < quiet, plans)
        for life in self.undisturbed:
            if life.state != "Closed":
                raise TestbedError(
                    f"a lease ends as {life.state} with nothing broken: {life.reason}"
                )
        tell(f"{self.size.lives} lives and {self.size.kills} kills")
        begun = time.monotonic()
        deadline = begun + self.size.seconds
        first = len(self.people.lives)

        def enough() -> bool:
            if time.monotonic() > deadline:
                return True
            lived = sum(life.lived for life in self.people.lives[first:])
            return self.breaker.kills >= self.size.kills and lived >= self.size.lives

        over = asyncio.Event()

        async def break_things() -> None:
            try:
                await self.breaker.run(enough)
            finally:
                over.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(break_things())
            operating = group.create_task(self.operator.run())
            self.disturbed = await self._in_turns(lambda _: not over.is_set(), ())
            operating.cancel()
        self.seconds = time.monotonic() - begun

    async def _in_turns(
        self,
        more: Callable[[int], bool],
        plans: tuple[Plan, ...],
    ) -> list[Life]:
        """Each worker lives one life after the other while there are more; `plans` in turn."""
        lives: list[Life] = []
        begun = 0

        async def work() -> None:
            nonlocal begun
            while more(begun):
                begun += 1
                life = await self.people.live(plans[begun % len(plans)] if plans else None)
                lives.append(life)
                tell(f"{life.key} {life.plan}: {life.state} ({life.reason})")

        await asyncio.gather(*(work() for _ in range(self.size.workers)))
        return lives

    # Ending -----------------------------------------------------------------------------------

    async def _settle(self, guest: Client, site: Client, broker: Client) -> list[str]:
        """Until nothing is under way any more; returns what stays so."""
        tell("all is mended; until nothing is under way any more")
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                found = await self._under_way(guest, site, broker)
            except (Problem, Unreachable) as error:
                found = [f"an actor does not answer: {error}"]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.5)

    async def _under_way(self, guest: Client, site: Client, broker: Client) -> list[str]:
        found = []
        if not await self.operator.round():
            found += [f"operator: {what}: {why}" for what, why in self.operator.refused.items()]
            found.append("site: failed teardowns or nodes in quarantine")
        for lease in await guest.leases():
            if not lease.final:
                found.append(f"guest: {lease.id} is {lease.state}")
                await guest.close(lease.id, "the run is over")
        found += [
            f"site: {at_site.id} is {at_site.state}"
            for at_site in await site.site_leases()
            if not at_site.final
        ]
        found += [
            f"broker: {ticket.id} is {ticket.state}"
            for ticket in (await broker.broker_leases()).leases
            if not ticket.final
        ]
        for actor in (guest, site, broker):
            status = await actor.status()
            found += [
                f"{status.name}: {peer.waiting} messages wait for {peer.name}"
                for peer in status.peers
                if peer.waiting
            ]
        ahead = CalendarWindow(start=datetime.now(UTC))
        for calendar in (await broker.calendar(ahead)).calendar:
            booked = ", ".join(f"{s.booked} from {s.start:%H:%M:%S}" for s in calendar.steps)
            if any(step.booked for step in calendar.steps):
                found.append(f"broker: still booked of {calendar.delegation}: {booked}")
        return found

    def _checked(self, differences: list[str]) -> Findings:
        copy_books(self.stand, self.stand.folder / "books")
        books = Books(self.stand.folder / "books")
        try:
            findings = check(books, self.people.lives)
            findings.done_twice += sorted(set(self.watch.doubles))
            findings.differences += [*differences, *self.people.faults]
            self._tell(findings, books)
        finally:
            books.close()
        return findings

    def _tell(self, findings: Findings, books: Books) -> None:
        """What is wrong, and the stories of the leases that it is about."""
        for name in ("lost", "done_twice", "differences"):
            for line in getattr(findings, name):
                tell(f"{name.upper()}: {line}")
        wrong = "\n".join((*findings.lost, *findings.done_twice, *findings.differences))
        for life in self.people.lives:
            if life.id and life.id in wrong:
                tell(f"the story of {life.key} ({life.plan}), lease {life.id}:")
                for line in life.told:
                    print(f"  told   {line}", file=sys.stderr)
                print(books.stories(life.id), file=sys.stderr)
        for actor in self.stand.actors.values():
            for line in actor.refused_starts:
                tell(f"{actor.name} would not start: {line}")
            for line, count in tracebacks(actor.log()).items():
                tell(f"{actor.name} broke {count} times: {line}")

    def figures(self, findings: Findings) -> dict[str, float]:
        logs = "".join(self.stand.actors[name].log() for name in ACTORS)
        figures: dict[str, float] = {
            "kills": self.breaker.kills,
            "lives": sum(life.lived for life in self.disturbed),
            "refused": sum(not life.lived for life in self.disturbed),
            "lost": len(findings.lost),
            "done_twice": len(findings.done_twice),
            "differences": len(findings.differences),
            "seconds": self.seconds,
            "retries": self.people.retries,
            "commits_refused": logs.count(COMMIT_REFUSED),
            "starts_refused": sum(len(a.refused_starts) for a in self.stand.actors.values()),
            "tracebacks": sum(tracebacks(logs).values()),
            "teardowns_tried_again": self.operator.retried,
            "nodes_released": self.operator.released,
            **{f"faults.{kind}": n for kind, n in sorted(self.breaker.counts.items())},
        }
        for state in ("Closed", "Failed"):
            figures[f"ended.{state}"] = sum(life.state == state for life in self.disturbed)
        return figures | times(self.disturbed, "with_faults")


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    """What the exceptions of a group say."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield str(error)


async def reconciled(site: Client) -> list[str]:
    """What the site itself finds when it compares its ledger with nodes and directory."""
    report = await site.reconcile(dry_run=True)
    return [
        *(f"reconcile: {d.unit} {d.where}: {d.fault}: {d.what}" for d in report.differences),
        *(f"reconcile: {one.driver} could not look: {one.reason}" for one in report.unavailable),
        *(f"reconcile: {unit} is busy" for unit in report.busy),
    ]


def tracebacks(log: str) -> Counter[str]:
    """How often each exception was logged with a traceback, by what it said."""
    said = r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)*(.*)$"
    return Counter(re.findall(said, log, re.MULTILINE))


def times(lives: list[Life], name: str) -> dict[str, float]:
    """Medians and maxima of seconds from request to Active, and from close to Closed."""
    figures = {}
    for what in ("active_after", "closed_after"):
        seconds = [took for life in lives if (took := getattr(life, what)) is not None]
        if seconds:
            figures[f"{what}_s_p50.{name}"] = statistics.median(seconds)
            figures[f"{what}_s_max.{name}"] = max(seconds)
    return figures


def restarted(leases: int) -> dict[str, float]:
    """What `bench/restart.py` measures; nothing when no leases are asked for, or it fails."""
    if not leases:
        return {}
    tell(f"restart with {leases} leases")
    script = Path(__file__).with_name("restart.py")
    name = f"restart_s.sqlite.{leases}"
    try:
        done = subprocess.run(
            [
                sys.executable,
                script,
                *("--leases", str(leases), "--ledger", "sqlite", "--json"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=RESTART_SECONDS,
        )
    except subprocess.SubprocessError as error:
        tell(f"there is no figure {name}: {error}")
        return {}
    return {name: json.loads(done.stdout)["figures"][name]}


async def main(size: Size, seed: int, keep: Path | None) -> tuple[dict[str, Any], Findings]:
    """The result, and what is wrong; logs and ledgers are copied to the new folder `keep`."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    logging.getLogger("shirako").setLevel(logging.ERROR)  # of the actor that once runs in here
    with tempfile.TemporaryDirectory(prefix="shirako-faults-") as folder:
        async with Stand(Path(folder).resolve(), nodes=size.nodes, tell=tell) as stand:
            run = Run(stand, size, seed)
            findings = await run.run()
            figures = run.figures(findings)
            references = times(run.undisturbed, "without_faults")
            if keep is not None:
                shutil.copytree(stand.folder / "books", keep)
                for log in stand.folder.glob("*.log"):
                    shutil.copy(log, keep)
    ratios = {
        f"{what}_with_faults_to_without": figures[f"{what}_s_p50.with_faults"] / reference
        for what in ("active_after", "closed_after")
        if f"{what}_s_p50.with_faults" in figures
        and (reference := references.get(f"{what}_s_p50.without_faults"))
    }
    result = {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "machine": report.machine(),
        "seed": seed,
    }
    return result, findings


if __name__ == "__main__":
    parser = report.options(__doc__, "few kills and lives, fewer nodes")
    parser.add_argument("--kills", type=int, help="how many actors are killed, at least")
    parser.add_argument("--lives", type=int, help="how many leases are lived, at least")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and of the plans")
    parser.add_argument("--seconds", type=float, help="no round of faults begins later")
    parser.add_argument("--restart-leases", type=int, help="for restart.py; 0: leave it out")
    parser.add_argument("--keep", type=Path, help="new folder for logs and ledgers")
    options = parser.parse_args()
    given = {name: value for name, value in vars(options).items() if value is not None}
    names = ("kills", "lives", "seconds", "restart_leases")
    wanted = {name: given[name] for name in names if name in given}
    chosen = QUICK if options.quick else FULL
    chosen = replace(chosen, **wanted)
    try:
        measured, found = asyncio.run(main(chosen, options.seed, options.keep))
    except EXPECTED as error:
        sys.exit(f"faults: {error}")
    except ExceptionGroup as group:
        if group.split(EXPECTED)[1] is not None:
            raise
        sys.exit(f"faults: {'; '.join(leaves(group))}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("faults: interrupted; all that was made is cleared away")
    measured["figures"] |= restarted(chosen.restart_leases)
    report.show(measured, as_json=options.json)
    sys.exit(0 if found.good else 1)
