"""`shirako simulate`: whole worlds under virtual time, with everything going wrong that may."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from shirako.simulation.campaign import Found, Report

EXPLAINED_MAX = 3
"""Violations that are shrunk and told in full; each takes many runs."""
PLAIN_SECONDS = 5.0
TERMINAL_SECONDS = 0.2


@click.command(
    epilog="""\b
Examples:
  shirako simulate --faults --seeds 1000
  shirako simulate --faults --seeds 1 --seed 4711      # one run again, the very same
  shirako simulate --faults --seeds 1000000 --minutes 30 --json > found.json"""
)
@click.option("--faults", "with_faults", is_flag=True, help="Inject faults of every kind.")
@click.option("--seeds", default=100, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--seed", "first", default=1, show_default=True, type=click.IntRange(min=0), help="The first."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop after so long.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; one a core if not given.")
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def simulate(
    with_faults: bool,
    seeds: int,
    first: int,
    minutes: float | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Run many small worlds of sites, brokers and guests, and hold every invariant against each.

    Each seed is a world of its own, under virtual time, in one process: the same seed gives the
    same run to the byte. A violation is told with its seed, the smallest set of faults that shows
    it, the trace of that run and the story of the lease.

    Exit status: 0 no violation, 1 violations, 2 wrong usage.
    """
    from shirako.simulation.campaign import campaign, cores, explain
    from shirako.simulation.faults import ALL_FAULTS, NO_FAULTS

    faults = ALL_FAULTS if with_faults else NO_FAULTS
    report = campaign(
        range(first, first + seeds),
        faults,
        jobs=min(jobs or cores(), seeds),
        seconds=None if minutes is None else minutes * 60,
        progress=_progress(seeds),
    )
    if sys.stderr.isatty():
        click.echo("", err=True)
    found = [explain(summary, faults) for summary in report.violating[:EXPLAINED_MAX]]
    if as_json:
        click.echo(json.dumps(_plain(report, found), indent=1))
    else:
        _tell(report, found)
    if report.violating:
        sys.exit(1)


def _progress(seeds: int) -> Callable[[Report], None]:
    """Says how far it is: on one line of a terminal, else in a line every few seconds."""
    terminal = sys.stderr.isatty()
    every = TERMINAL_SECONDS if terminal else PLAIN_SECONDS
    told = 0.0

    def tell(report: Report) -> None:
        nonlocal told
        if report.seconds - told < every:
            return
        told = report.seconds
        line = (
            f"{report.seeds}/{seeds} seeds, {report.events} events "
            f"({report.events / report.seconds:.0f}/s), {report.lives} lives, "
            f"{sum(report.faults.values())} faults, {len(report.violating)} seeds violate"
        )
        click.echo(f"\r{line}\033[K" if terminal else line, err=True, nl=not terminal)

    return tell


def _tell(report: Report, found: list[Found]) -> None:
    if report.faults:
        output.table(("FAULT", "INJECTED"), sorted(report.faults.items()))
        click.echo("")
    if report.seen:
        output.table(("SEEN", "TIMES"), sorted(report.seen.items()))
        click.echo("")
    seconds = max(report.seconds, 1e-9)
    output.facts(
        (
            ("seeds", f"{report.seeds} from {report.first}"),
            ("lives", report.lives),
            ("events", f"{report.events} ({report.events / seconds:.0f}/s)"),
            ("seconds", f"{report.seconds:.1f} ({report.seeds / seconds:.1f} seeds/s)"),
            ("digest", report.digest),
            ("violations", f"in {len(report.violating)} seeds" if report.violating else "none"),
        )
    )
    for one in found:
        click.echo(f"\nseed {one.seed}: {one.violation.invariant} {one.violation.lease}")
        click.echo(f"  {output.plain(one.violation.message)}")
        click.echo(f"\nwith {len(one.faults)} faults: {', '.join(one.faults) or 'none'}\n")
        for line in one.trace:
            click.echo(output.plain(line))
        if one.story:
            click.echo(f"\nthe story of {one.violation.lease}:\n")
            for line in one.story:
                click.echo(output.plain(line))
    for summary in report.violating[len(found) :]:
        violation = summary.violations[0]
        told = output.plain(f"{violation.invariant} {violation.lease}: {violation.message}")
        click.echo(f"seed {summary.seed}: {told}")


def _plain(report: Report, found: list[Found]) -> dict[str, Any]:
    explained = {one.seed: one for one in found}
    violations = []
    for summary in report.violating:
        one = explained.get(summary.seed)
        violation = one.violation if one else summary.violations[0]
        violations.append(
            {
                "seed": summary.seed,
                "invariant": violation.invariant,
                "lease": violation.lease,
                "message": violation.message,
                "faults": list(one.faults) if one else [],
                "trace": list(one.trace) if one else [],
                "story": list(one.story) if one else [],
            }
        )
    return {
        "seeds": report.seeds,
        "events": report.events,
        "lives": report.lives,
        "faults": dict(sorted(report.faults.items())),
        "seen": dict(sorted(report.seen.items())),
        "violations": violations,
        "digest": report.digest,
        "seconds": round(report.seconds, 3),
    }
